//! The statuses of the C ABI as an enum; messages come from the support library, which takes them from the header.

use std::ffi::CStr;
use std::fmt;

use crate::abi;

/// Declares `Status` from the header's names, in Rust's spelling, and values.
macro_rules! statuses {
    ($($variant:ident = $value:literal),+ $(,)?) => {
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
        }
    };
}

statuses! {
    Null = -1,
    Abi = -2,
    StructSize = -3,
    Kind = -4,
    Dtype = -5,
    Device = -6,
    Rank = -7,
    Dim = -8,
    DimSymbol = -9,
    DimRange = -10,
    Strides = -11,
    Alignment = -12,
    Offset = -13,
    Capacity = -14,
    More = -15,
    Overlap = -16,
    Workers = -17,
    ArenaAlignment = -18,
    ArenaSize = -19,
    NeedAlloc = -20,
    NoMemory = -21,
    Weights = -22,
    Flags = -23,
    Cpu = -24,
    Index = -25,
    DataShape = -26,
    Division = -27,
    SizeLimit = -28,
    String = -29,
    Sequence = -30,
    Key = -31,
    DataValue = -32,
    User = -33,
    NoDriver = -34,
    NoDevice = -35,
    DeviceFailed = -36,
    NotTensors = -37,
    Threads = -38,
    PortIndex = -39,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the function returns a static string for any value.
        let message = unsafe { CStr::from_ptr(abi::onnxc_status_message(self.code())) };
        match self {
            Self::Unknown(code) => write!(formatter, "{} {code}", message.to_string_lossy()),
            _ => formatter.write_str(&message.to_string_lossy()),
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
