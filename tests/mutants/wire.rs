//! Protobuf messages as trees without a schema, so that any part can be changed while all lengths stay right.

/// Numbers that break arithmetic: of both signs, at the ends of their types, and near what sizes and axes are.
const NUMBERS: [i64; 18] =
    [0, 1, 2, 3, 7, 8, 16, 17, 63, 65, 1000, 1 << 20, 1 << 31, 1 << 40, i64::MAX, i64::MIN, -1, -2];
const FLOATS: [f32; 7] = [0.0, -1.0, 1e-40, 1e30, f32::INFINITY, f32::NAN, 0.5];
/// Messages nest at most this deep.
const DEPTH: usize = 12;

/// A field's contents.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Message(Message),
}

/// Fields with their numbers, in the order of the file.
pub type Message = Vec<(u32, Field)>;

/// A generator of numbers that are the same for the same seed.
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// The message that bytes are, if they are one. Text may look like one; nothing depends on which it is taken for.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    message(bytes, 0)
}

fn message(mut rest: &[u8], depth: usize) -> Option<Message> {
    let mut fields = Message::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 16).contains(n))?;
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut rest)?),
            1 => Field::Fixed64(rest.split_off(..8)?.try_into().ok()?),
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                let bytes = rest.split_off(..len)?;
                let inner = if depth < DEPTH && !bytes.is_empty() { message(bytes, depth + 1) } else { None };
                inner.map_or_else(|| Field::Bytes(bytes.to_vec()), Field::Message)
            }
            5 => Field::Fixed32(rest.split_off(..4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push((number, field));
    }
    Some(fields)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let &byte = rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The bytes of a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, mut value: u64| {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    };
    for (number, field) in message {
        let mut tagged = |kind: u64| put(&mut out, u64::from(*number) << 3 | kind);
        match field {
            Field::Varint(value) => {
                tagged(0);
                put(&mut out, *value);
            }
            Field::Fixed64(bytes) => {
                tagged(1);
                out.extend(bytes);
            }
            Field::Fixed32(bytes) => {
                tagged(5);
                out.extend(bytes);
            }
            Field::Bytes(bytes) => {
                tagged(2);
                put(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
            Field::Message(inner) => {
                tagged(2);
                let bytes = encode(inner);
                put(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
        }
    }
    out
}

/// How many fields a message has, with those inside.
fn count(message: &Message) -> usize {
    message.iter().map(|(_, field)| 1 + if let Field::Message(inner) = field { count(inner) } else { 0 }).sum()
}

/// The message and the place in it of the field with this number in the order of the file.
fn find(message: &mut Message, mut n: usize) -> Option<(&mut Message, usize)> {
    let mut at = 0;
    loop {
        let (_, field) = message.get(at)?;
        if n == 0 {
            return Some((message, at));
        }
        n -= 1;
        let inside = if let Field::Message(inner) = field { count(inner) } else { 0 };
        if n < inside {
            let Field::Message(inner) = &mut message[at].1 else { unreachable!("it has fields") };
            return find(inner, n);
        }
        n -= inside;
        at += 1;
    }
}

/// Changes one field. `donor` gives others.
pub fn mutate(model: &mut Message, donor: &mut Message, random: &mut Random) {
    let number = random.below(count(model));
    let given = (0..8).find_map(|_| {
        let n = random.below(count(donor));
        find(donor, n).map(|(fields, at)| fields[at].clone())
    });
    let Some((fields, at)) = find(model, number) else { return };
    match random.below(8) {
        0 => drop(fields.remove(at)),
        1 => fields.insert(at, fields[at].clone()),
        2 => {
            let other = random.below(fields.len());
            fields.swap(at, other);
        }
        // What another field of the same kind has; of another kind it would mostly be refused as such.
        3 => {
            let other = random.below(fields.len());
            if std::mem::discriminant(&fields[other].1) == std::mem::discriminant(&fields[at].1) {
                fields[at].1 = fields[other].1.clone();
            }
        }
        4 => {
            if let Some((number, field)) = given.filter(|(number, _)| *number == fields[at].0) {
                fields[at] = (number, field);
            }
        }
        _ => match &mut fields[at].1 {
            Field::Varint(value) => {
                *value = match random.below(4) {
                    0 => value.wrapping_add(1),
                    1 => value.wrapping_sub(1),
                    _ => random.pick(&NUMBERS) as u64,
                };
            }
            Field::Fixed64(bytes) => *bytes = f64::from(random.pick(&FLOATS)).to_le_bytes(),
            Field::Fixed32(bytes) => *bytes = random.pick(&FLOATS).to_le_bytes(),
            Field::Bytes(bytes) => match random.below(4) {
                0 => bytes.clear(),
                1 => bytes.truncate(random.below(bytes.len())),
                2 => bytes.extend_from_slice(&random.pick(&NUMBERS).to_le_bytes()),
                _ if bytes.is_empty() => bytes.push(b'x'),
                _ => {
                    let i = random.below(bytes.len());
                    bytes[i] = random.below(256) as u8;
                }
            },
            // A field within; a message that is empty is the other end.
            Field::Message(inner) if random.below(4) == 0 => inner.clear(),
            Field::Message(inner) => mutate(inner, donor, random),
        },
    }
}
