//! The statuses of the C ABI as an enum, with the header's messages.

use core::fmt;

/// Declares `Status` from the header's names, in Rust's spelling, values and messages.
macro_rules! statuses {
    ($($variant:ident = $value:literal, $message:literal),+ $(,)?) => {
        /// Why a call failed: `ONNXC_*` of `onnxc.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Status {
            $($variant,)+
            /// A status of a newer compiler.
            Unknown(i32),
        }

        impl Status {
            /// Every status that the header names, but `ONNXC_OK`.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The status of a value other than 0.
            pub const fn from_code(code: i32) -> Self {
                match code {
                    $($value => Self::$variant,)+
                    other => Self::Unknown(other),
                }
            }

            /// The value in the C ABI.
            pub const fn code(self) -> i32 {
                match self {
                    $(Self::$variant => $value,)+
                    Self::Unknown(code) => code,
                }
            }

            /// What it means, in the header's words.
            pub const fn message(self) -> &'static str {
                match self {
                    $(Self::$variant => $message,)+
                    Self::Unknown(_) => "unknown status",
                }
            }
        }
    };
}

statuses! {
    Null = -1, "a required pointer is NULL",
    Abi = -2, "the call's abi_version is not the model's",
    StructSize = -3, "the call's struct_size is too small",
    Kind = -4, "a value's kind is not the port's",
    Dtype = -5, "a tensor's dtype is not the port's",
    Device = -6, "a tensor is on a device that the model does not use",
    Rank = -7, "a tensor's rank is not the port's",
    Dim = -8, "a tensor's dim is not the port's",
    DimSymbol = -9, "two dims that the model calls by one name differ",
    DimRange = -10, "a dim is negative or outside the range that the model was compiled for",
    Strides = -11, "a tensor's strides are not those of dense row-major order",
    Alignment = -12, "a tensor's first element is not aligned to its element size",
    Offset = -13, "a tensor's byte_offset or size does not fit the address space",
    Capacity = -14, "an input's capacity_bytes is smaller than its tensor",
    More = -15, "an output's capacity is too small; its dims say what it needs",
    Overlap = -16, "an output overlaps an input, another output or the arena",
    Workers = -17, "max_workers is negative or too large",
    ArenaAlignment = -18, "the arena is not aligned to 64 bytes",
    ArenaSize = -19, "the arena is smaller than plan says",
    NeedAlloc = -20, "the model's sizes depend on data: it needs alloc and release",
    NoMemory = -21, "memory could not be allocated",
    Weights = -22, "the external weights are missing, misaligned or not the model's",
    Flags = -23, "an unknown flag is set",
    Cpu = -24, "the processor lacks instructions that the model was compiled for",
    Index = -25, "an index in the data is out of range",
    DataShape = -26, "shapes that depend on data do not fit each other",
    Division = -27, "an integer in the data is divided by zero",
    SizeLimit = -28, "a size that depends on dims or data overflows",
    String = -29, "a string lies outside its bytes, or does not parse as its operator asks",
    Sequence = -30, "a sequence's position, length or element type is wrong",
    Key = -31, "a map or a label table lacks a key",
    DataValue = -32, "a value in the data is outside its operator's domain",
    User = -33, "a user's operator failed",
    NoDriver = -34, "there is no GPU driver",
    NoDevice = -35, "there is no such GPU, or its compute capability is too low",
    DeviceFailed = -36, "the GPU driver reported an error",
    NotTensors = -37, "the model has ports that are not tensors, or sizes that depend on data",
    Threads = -38, "threads could not be started",
    PortIndex = -39, "there is no port of this index",
    WeightsFile = -40, "the file of the external weights cannot be opened or mapped",
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(code) => write!(formatter, "{} {code}", self.message()),
            _ => formatter.write_str(self.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_header() {
        let mut listed = Vec::new();
        for line in crate::HEADER.lines() {
            let Some(row) = line.trim_start().strip_prefix("X(ONNXC_") else { continue };
            let mut fields = row.splitn(3, ", ");
            let name: String = fields.next().unwrap().split('_').map(capitalized).collect();
            let code: i32 = fields.next().unwrap().parse().unwrap();
            let message = fields.next().unwrap().trim_end_matches([' ', '\\']);
            let message = message.trim_start_matches('"').trim_end_matches(')').trim_end_matches('"');
            listed.push((name, code, message.to_owned()));
        }
        assert_eq!(listed.remove(0).1, 0);
        let ours: Vec<_> = Status::ALL.iter().map(|s| (format!("{s:?}"), s.code(), s.to_string())).collect();
        assert_eq!(ours, listed);
    }

    #[test]
    fn codes_round_trip() {
        for &status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), status);
        }
        assert_eq!(Status::from_code(-1000).to_string(), "unknown status -1000");
    }

    fn capitalized(word: &str) -> String {
        word[..1].to_owned() + &word[1..].to_lowercase()
    }
}
