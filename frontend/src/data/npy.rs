//! NumPy's `.npy` format, versions 1 to 3.
//!
//! Read here and not through a crate, because elements stay in the mapping, the header of a hostile file must not
//! panic, and what NumPy writes for ml_dtypes (`V1`, `V2`) needs the model's word on what it means. The header is one
//! Python dictionary of three known keys.

use bytes::Bytes;
use onnxc_ir::dtype::DType;
use std::io::{self, Write};

use crate::proto::{Elements, LoadError, LoadProblem, TensorData};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy aligns the elements to this.
const ALIGNMENT: usize = 64;
/// Highest rank read; `TensorData` has a lower limit of its own.
const MAX_RANK: usize = 64;

fn wrong(message: impl Into<String>) -> LoadError {
    LoadProblem::Npy(message.into()).here()
}

/// What the header says.
#[derive(Debug, Default)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<i64>,
}

/// A tensor from an `.npy` file. Little-endian elements in C order stay slices of `bytes`; others are converted.
/// Void elements, which NumPy writes for bfloat16 and smaller types, are taken as `dtype` where the width fits.
pub fn read_npy(bytes: Bytes, dtype: Option<DType>) -> Result<TensorData, LoadError> {
    let (header, start) = read_header(&bytes)?;
    let encoding = Encoding::of(&header.descr, dtype)?;
    let data = bytes.slice(start..);
    let mut count = 1u64;
    for &dim in &header.shape {
        count = count.checked_mul(dim.unsigned_abs()).ok_or_else(|| wrong(format!("shape {:?}", header.shape)))?;
    }
    let needed = count.checked_mul(encoding.width as u64);
    if needed != Some(data.len() as u64) {
        return Err(wrong(format!(
            "`{}` of shape {:?} does not take the file's {} bytes",
            header.descr,
            header.shape,
            data.len()
        )));
    }
    let data = if encoding.swap > 1 { swap_bytes(&data, encoding.swap) } else { data };
    let data = if header.fortran_order { to_c_order(data, &header.shape, encoding.width) } else { data };
    match encoding.content {
        Content::Dense(dtype) => TensorData::dense(dtype, header.shape, data),
        Content::Unpacked(dtype) => TensorData::dense(dtype, header.shape, pack(&data, dtype.bits())),
        Content::Characters => strings(header.shape, &data, count, encoding.width, |element| {
            let points = element.as_chunks::<4>().0.iter().map(|point| char::from_u32(u32::from_le_bytes(*point)));
            let text: Option<String> = points.collect();
            let text = text.ok_or_else(|| wrong("a string has an invalid code point"))?;
            Ok(Bytes::from(text.trim_end_matches('\0').to_owned()))
        }),
        Content::ByteStrings => strings(header.shape, &data, count, encoding.width, |element| {
            let length = element.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            Ok(Bytes::copy_from_slice(&element[..length]))
        }),
    }
}

fn strings(
    shape: Vec<i64>,
    data: &[u8],
    count: u64,
    width: usize,
    decode: impl Fn(&[u8]) -> Result<Bytes, LoadError>,
) -> Result<TensorData, LoadError> {
    if width > 0 {
        return TensorData::strings(shape, data.chunks_exact(width).map(decode).collect::<Result<_, _>>()?);
    }
    // Strings of no width take no bytes, so the file's length does not bound their number.
    if count > 1 << 20 {
        return Err(wrong(format!("{count} empty strings")));
    }
    TensorData::strings(shape, vec![Bytes::new(); count as usize])
}

/// How elements lie in the file.
struct Encoding {
    content: Content,
    /// Bytes of an element.
    width: usize,
    /// Bytes of each group whose order is to be reversed; 1 for none.
    swap: usize,
}

enum Content {
    Dense(DType),
    /// One byte for each element of a type smaller than that.
    Unpacked(DType),
    /// 32-bit code points, padded with zeros.
    Characters,
    /// Bytes, padded with zeros.
    ByteStrings,
}

impl Encoding {
    fn of(descr: &str, expected: Option<DType>) -> Result<Encoding, LoadError> {
        let unknown = || wrong(format!("dtype `{descr}` corresponds to no ONNX type"));
        let (order, rest) = match descr.chars().next() {
            Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
            _ => ('|', descr),
        };
        let letter = rest.chars().next().filter(char::is_ascii).ok_or_else(unknown)?;
        let size: usize = rest[1..].parse().ok().filter(|size| *size <= 1 << 24).ok_or_else(|| {
            if letter == 'O' { wrong("pickled objects are not read; save strings with dtype `U`") } else { unknown() }
        })?;
        let is_big = order == '>';
        let dense = |dtype: DType, parts: usize| Encoding {
            content: Content::Dense(dtype),
            width: size,
            swap: if is_big { size / parts } else { 1 },
        };
        Ok(match (letter, size) {
            ('f', 8) => dense(DType::F64, 1),
            ('f', 4) => dense(DType::F32, 1),
            ('f', 2) => dense(DType::F16, 1),
            // The one small float that ml_dtypes declares as a float of NumPy's own.
            ('f', 1) => dense(DType::F8E5M2, 1),
            ('i', 8) => dense(DType::I64, 1),
            ('i', 4) => dense(DType::I32, 1),
            ('i', 2) => dense(DType::I16, 1),
            ('i', 1) => dense(DType::I8, 1),
            ('u', 8) => dense(DType::U64, 1),
            ('u', 4) => dense(DType::U32, 1),
            ('u', 2) => dense(DType::U16, 1),
            ('u', 1) => dense(DType::U8, 1),
            ('b', 1) => dense(DType::Bool, 1),
            ('c', 8) => dense(DType::C64, 2),
            ('c', 16) => dense(DType::C128, 2),
            ('U', characters) => {
                let swap = if is_big { 4 } else { 1 };
                Encoding { content: Content::Characters, width: 4 * characters, swap }
            }
            ('S' | 'a', width) => Encoding { content: Content::ByteStrings, width, swap: 1 },
            ('V', width) => {
                let fits = |dtype: &DType| written_as_void(*dtype) && dtype.bits().div_ceil(8) as usize == width;
                let Some(dtype) = expected.filter(fits) else {
                    return Err(wrong(format!(
                        "dtype `{descr}` does not say what its elements are (NumPy writes bfloat16 and smaller types \
                         so); save the tensor as a TensorProto `.pb`, or convert it to float32"
                    )));
                };
                let content = if dtype.bits() < 8 { Content::Unpacked(dtype) } else { Content::Dense(dtype) };
                Encoding { content, width, swap: 1 }
            }
            _ => return Err(unknown()),
        })
    }
}

/// Types that NumPy itself lacks; ml_dtypes has them, and NumPy saves those as void.
fn written_as_void(dtype: DType) -> bool {
    use DType::*;
    match dtype {
        BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1 | I4 | I2 | U4 | U2 => true,
        F64 | F32 | F16 | I64 | I32 | I16 | I8 | U64 | U32 | U16 | U8 | Bool | String | C64 | C128 => false,
    }
}

fn swap_bytes(data: &[u8], group: usize) -> Bytes {
    let mut swapped = data.to_vec();
    swapped.chunks_exact_mut(group).for_each(<[u8]>::reverse);
    Bytes::from(swapped)
}

/// Elements in Fortran order, first axis fastest, put in C order. The shape's product is the number of elements.
fn to_c_order(data: Bytes, shape: &[i64], width: usize) -> Bytes {
    if shape.len() < 2 || data.is_empty() {
        return data;
    }
    let dims: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
    let mut strides = vec![width; dims.len()];
    for axis in 1..dims.len() {
        strides[axis] = strides[axis - 1] * dims[axis - 1];
    }
    let mut ordered = Vec::with_capacity(data.len());
    let (mut index, mut offset) = (vec![0; dims.len()], 0);
    while ordered.len() < data.len() {
        ordered.extend_from_slice(&data[offset..offset + width]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            offset += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            offset -= index[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    Bytes::from(ordered)
}

fn pack(elements: &[u8], bits: u32) -> Bytes {
    let mask = (1u8 << bits) - 1;
    let join = |group: &[u8]| group.iter().rev().fold(0, |byte, element| byte << bits | (element & mask));
    elements.chunks((8 / bits) as usize).map(join).collect::<Vec<u8>>().into()
}

/// One byte for each element, integers sign-extended, as ml_dtypes keeps them.
fn unpack(packed: &[u8], count: u64, dtype: DType) -> Vec<u8> {
    let bits = dtype.bits();
    let element = |index: u64| {
        let position = index * u64::from(bits);
        let element = packed[(position / 8) as usize] >> (position % 8) << (8 - bits);
        if dtype.is_signed_int() { (element as i8 >> (8 - bits)) as u8 } else { element >> (8 - bits) }
    };
    (0..count).map(element).collect()
}

/// The header, and where the elements start.
fn read_header(bytes: &[u8]) -> Result<(Header, usize), LoadError> {
    let truncated = || wrong("the file ends within its header");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("the file does not start as an .npy file does"))?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(truncated)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
        other => return Err(wrong(format!("format version {other} is not known"))),
    }
    .ok_or_else(truncated)?;
    let text = rest.get(..length).ok_or_else(truncated)?;
    let text = std::str::from_utf8(text).map_err(|_| wrong("the header is no text"))?;
    let header = Literal { rest: text }.header()?;
    Ok((header, bytes.len() - rest.len() + length))
}

/// A reader of the header's Python literal: a dictionary of a string, a truth value and a tuple of integers.
struct Literal<'t> {
    rest: &'t str,
}

impl<'t> Literal<'t> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), LoadError> {
        if self.eat(token) { Ok(()) } else { Err(wrong(format!("the header lacks `{token}`"))) }
    }

    fn header(mut self) -> Result<Header, LoadError> {
        let mut header = Header::default();
        let mut seen = Vec::new();
        self.expect("{")?;
        while !self.eat("}") {
            let key = self.string()?;
            self.expect(":")?;
            match key {
                "descr" => header.descr = self.string()?.to_owned(),
                "fortran_order" => header.fortran_order = self.truth()?,
                "shape" => header.shape = self.shape()?,
                other => return Err(wrong(format!("unknown header key `{other}`"))),
            }
            seen.push(key);
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        seen.sort_unstable();
        if seen != ["descr", "fortran_order", "shape"] {
            return Err(wrong("the header needs descr, fortran_order and shape, each once"));
        }
        Ok(header)
    }

    fn string(&mut self) -> Result<&'t str, LoadError> {
        if self.eat("[") {
            return Err(wrong("structured dtypes correspond to no ONNX type"));
        }
        let quote = if self.eat("'") { '\'' } else { '"' };
        if quote == '"' {
            self.expect("\"")?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or_else(|| wrong("unfinished string in the header"))?;
        self.rest = rest;
        Ok(text)
    }

    fn truth(&mut self) -> Result<bool, LoadError> {
        if self.eat("True") {
            return Ok(true);
        }
        self.expect("False").map(|()| false)
    }

    fn shape(&mut self) -> Result<Vec<i64>, LoadError> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.eat(")") {
            self.rest = self.rest.trim_start();
            let length = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let (digits, rest) = self.rest.split_at(length);
            let dim = digits.parse().map_err(|_| wrong(format!("`{digits}` is no dimension")))?;
            shape.push(dim);
            if shape.len() > MAX_RANK {
                return Err(wrong(format!("more than {MAX_RANK} dimensions")));
            }
            self.rest = rest;
            // Python 2 marked some integers as long.
            self.eat("L");
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

/// Writes a tensor in C order, version 1 or, for a header too long for it, 2. Types that NumPy lacks are written as
/// NumPy writes those of ml_dtypes: void elements of whole bytes.
pub fn write_npy(tensor: &TensorData, out: &mut dyn Write) -> io::Result<()> {
    let dtype = tensor.dtype();
    let mut descr = match dtype {
        DType::Bool => "|b1".to_owned(),
        DType::C64 | DType::C128 => format!("<c{}", dtype.bits() / 8),
        DType::String => String::new(),
        _ if written_as_void(dtype) => format!("<V{}", dtype.bits().div_ceil(8)),
        _ => {
            let letter = if dtype.is_float() {
                'f'
            } else if dtype.is_signed_int() {
                'i'
            } else {
                'u'
            };
            let order = if dtype.bits() == 8 { '|' } else { '<' };
            format!("{order}{letter}{}", dtype.bits() / 8)
        }
    };
    let converted;
    let data: &[u8] = match tensor.elements() {
        Elements::Dense(bytes) if dtype.bits() < 8 => {
            converted = unpack(bytes, tensor.len(), dtype);
            &converted
        }
        Elements::Dense(bytes) => bytes,
        Elements::Strings(strings) => {
            let texts: Vec<Vec<char>> =
                strings.iter().map(|text| String::from_utf8_lossy(text).chars().collect()).collect();
            let width = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
            descr = format!("<U{width}");
            let padded = texts.iter().flat_map(|text| text.iter().copied().chain(std::iter::repeat('\0')).take(width));
            converted = padded.flat_map(|c| (c as u32).to_le_bytes()).collect();
            &converted
        }
    };
    let dims: Vec<String> = tensor.dims().iter().map(i64::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", dims.join(", "));
    let mut prefix = MAGIC.len() + 4;
    let padded = |header: &str, prefix: usize| (prefix + header.len() + 1).next_multiple_of(ALIGNMENT) - prefix;
    let is_short = padded(&header, prefix) <= usize::from(u16::MAX);
    if !is_short {
        prefix += 2;
    }
    let length = padded(&header, prefix);
    header.extend(std::iter::repeat_n(' ', length - 1 - header.len()));
    header.push('\n');
    out.write_all(MAGIC)?;
    if is_short {
        out.write_all(&[1, 0])?;
        out.write_all(&(length as u16).to_le_bytes())?;
    } else {
        out.write_all(&[2, 0])?;
        out.write_all(&(length as u32).to_le_bytes())?;
    }
    out.write_all(header.as_bytes())?;
    out.write_all(data)
}
