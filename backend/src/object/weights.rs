//! The weights of an object, as chunks that are produced when they are written.
//!
//! A chunk knows its place and length beforehand and its bytes only on demand: from a mapped model file as they are,
//! or through a chain of transforms. Chunks are produced on all cores, in bounded batches where the destination is a
//! stream, so that memory stays near [`BATCH_BYTES`] whatever the model's size.

use std::fmt;
use std::io::{self, Write};

use rayon::prelude::*;

use super::ObjectError;

/// Alignment of the weights, in bytes, and of the chunks that are pushed without a place.
pub const ALIGN: u64 = 64;

/// How many bytes of chunks a stream holds at once; a larger chunk is streamed by itself.
pub const BATCH_BYTES: u64 = 32 << 20;

/// Produces the bytes of a chunk, the same ones each time.
pub trait WeightSource: Send + Sync {
    /// Writes exactly the chunk's length to `out`.
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()>;
}

impl<F: Fn(&mut dyn Write) -> io::Result<()> + Send + Sync> WeightSource for F {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self(out)
    }
}

/// A stretch of the weights.
pub struct WeightChunk<'a> {
    /// Byte offset from the start of the weights.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What produces them.
    pub source: Box<dyn WeightSource + 'a>,
}

impl fmt::Debug for WeightChunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightChunk({}..+{})", self.offset, self.len)
    }
}

/// All weights of a model. What no chunk covers is 0.
#[derive(Debug)]
pub struct Weights<'a> {
    /// The symbol of the first byte.
    pub symbol: String,
    /// Bytes in all.
    pub len: u64,
    /// In ascending order of offset, without overlap.
    pub chunks: Vec<WeightChunk<'a>>,
}

impl<'a> Weights<'a> {
    /// No chunks yet.
    pub fn new(symbol: impl Into<String>) -> Self {
        Self { symbol: symbol.into(), len: 0, chunks: Vec::new() }
    }

    /// Appends a chunk of `len` bytes at the next aligned offset, which it returns.
    pub fn push(&mut self, len: u64, source: impl WeightSource + 'a) -> u64 {
        let offset = self.len.next_multiple_of(ALIGN);
        self.push_at(offset, len, source);
        offset
    }

    /// Appends a chunk of `len` bytes at an offset that is not before the end of the one before it.
    pub fn push_at(&mut self, offset: u64, len: u64, source: impl WeightSource + 'a) {
        self.chunks.push(WeightChunk { offset, len, source: Box::new(source) });
        self.len = offset + len;
    }

    pub(super) fn check(&self) -> Result<(), ObjectError> {
        let mut end = 0;
        for chunk in &self.chunks {
            let next = chunk.offset.checked_add(chunk.len);
            if chunk.offset < end || next.is_none_or(|next| next > self.len) {
                return Err(ObjectError::Invalid(format!("weights of {} bytes hold a misplaced {chunk:?}", self.len)));
            }
            end = chunk.offset + chunk.len;
        }
        Ok(())
    }

    /// Writes all bytes in order.
    pub fn stream(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        let mut rest = self.chunks.as_slice();
        while !rest.is_empty() {
            let mut batch_bytes = 0;
            let fitting = rest.iter().take_while(|chunk| {
                batch_bytes += chunk.len;
                batch_bytes <= BATCH_BYTES
            });
            let (batch, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            if let [chunk] = batch {
                write_zeros(out, chunk.offset - at)?;
                let mut counted = Counted { out, left: chunk.len };
                chunk.source.write_to(&mut counted)?;
                counted.finish(chunk)?;
                at = chunk.offset + chunk.len;
                continue;
            }
            let produced: Vec<io::Result<Vec<u8>>> = batch.par_iter().map(produce).collect();
            for (chunk, bytes) in batch.iter().zip(produced) {
                write_zeros(out, chunk.offset - at)?;
                out.write_all(&bytes?)?;
                at = chunk.offset + chunk.len;
            }
        }
        write_zeros(out, self.len - at)
    }

    /// Fills `out`, which has the weights' length and holds zeros, on all cores.
    pub fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        assert_eq!(out.len() as u64, self.len, "the destination has the weights' length");
        let mut places = Vec::with_capacity(self.chunks.len());
        let (mut at, mut rest) = (0, out);
        for chunk in &self.chunks {
            let (place, later) = rest.split_at_mut((chunk.offset - at) as usize).1.split_at_mut(chunk.len as usize);
            places.push((chunk, place));
            (at, rest) = (chunk.offset + chunk.len, later);
        }
        places.into_par_iter().try_for_each(|(chunk, mut place)| {
            let mut counted = Counted { left: chunk.len, out: &mut place };
            chunk.source.write_to(&mut counted)?;
            counted.finish(chunk)
        })
    }
}

fn produce(chunk: &WeightChunk<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(chunk.len as usize);
    let mut counted = Counted { left: chunk.len, out: &mut bytes };
    chunk.source.write_to(&mut counted)?;
    counted.finish(chunk)?;
    Ok(bytes)
}

fn write_zeros(out: &mut dyn Write, mut count: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while count > 0 {
        let step = count.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..step as usize])?;
        count -= step;
    }
    Ok(())
}

/// Lets no more and, by [`Counted::finish`], no fewer bytes through than a chunk has.
struct Counted<'w> {
    out: &'w mut dyn Write,
    left: u64,
}

impl Counted<'_> {
    fn finish(self, chunk: &WeightChunk<'_>) -> io::Result<()> {
        match self.left {
            0 => Ok(()),
            left => Err(io::Error::other(format!("the source of {chunk:?} ended {left} bytes early"))),
        }
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("the source of a weight wrote more bytes than it has"));
        }
        let written = self.out.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(value: u8, len: u64) -> impl WeightSource {
        move |out: &mut dyn Write| out.write_all(&vec![value; len as usize])
    }

    #[test]
    fn stream_and_fill_agree() {
        let mut weights = Weights::new("net_weights");
        let lens = [1, 64, 0, BATCH_BYTES - 100, 70, BATCH_BYTES + 1, 3];
        let mut expected = Vec::new();
        for (index, len) in lens.into_iter().enumerate() {
            let offset = weights.push(len, constant(index as u8 + 1, len));
            expected.resize(offset as usize, 0);
            expected.resize((offset + len) as usize, index as u8 + 1);
        }
        let mut streamed = Vec::new();
        weights.stream(&mut streamed).unwrap();
        assert!(streamed == expected);
        let mut filled = vec![0; expected.len()];
        weights.fill(&mut filled).unwrap();
        assert!(filled == expected);
    }

    #[test]
    fn sources_of_the_wrong_length_are_errors() {
        for written in [2, 4] {
            let mut weights = Weights::new("net_weights");
            weights.push(3, constant(1, written));
            assert!(weights.stream(&mut Vec::new()).is_err());
            assert!(weights.fill(&mut [0; 3]).is_err());
        }
    }
}
