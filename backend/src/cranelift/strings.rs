//! The strings of a model as read-only data, with a table that finds them: what `onnxc_string_constants` of the support
//! library describes.
//!
//! Layout: the count, the number of buckets less one, the addresses of the ends, the text and the buckets. String `i` ends at
//! `ends[i]` and begins where the one before it ends; string 0 is empty. A bucket is 0 or the number of a string; the
//! first bucket of a string is its hash, later ones follow it.

use onnxc_ir::strings::StringTable;

use crate::object::DataObject;

/// FNV-1a, its halves folded; the support library computes the same.
fn hash(string: &[u8]) -> u64 {
    let fold = |h: u64, &b: &u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    let h = string.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    h ^ h >> 32
}

/// The data objects of the model's strings; the first one's symbol is `{prefix}__strings`.
pub fn objects(prefix: &str, table: &StringTable) -> Vec<DataObject> {
    let buckets = (table.count() * 2).next_power_of_two();
    let mut held = vec![0u32; buckets];
    let (mut ends, mut text) = (DataObject::new(format!("{prefix}__string_ends")), Vec::new());
    for (number, string) in table.iter().enumerate() {
        text.extend_from_slice(string);
        ends.put_u64(text.len() as u64);
        if number > 0 {
            let mut at = hash(string) as usize & (buckets - 1);
            while held[at] != 0 {
                at = (at + 1) & (buckets - 1);
            }
            held[at] = number as u32;
        }
    }
    let mut bytes = DataObject::new(format!("{prefix}__string_text"));
    bytes.put(&text).put(&[0]);
    let mut index = DataObject::new(format!("{prefix}__string_buckets"));
    held.iter().for_each(|&number| {
        index.put_u32(number);
    });
    let mut all = DataObject::new(format!("{prefix}__strings"));
    all.put_u64(table.count() as u64).put_u64(buckets as u64 - 1);
    [&ends, &bytes, &index].iter().for_each(|part| {
        all.put_pointer(part.name.clone(), 0);
    });
    vec![all, ends, bytes, index]
}
