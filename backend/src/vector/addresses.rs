//! Addresses: sums of values times strides, of which each part is computed where it last changes.

use iced_x86::Code;
use onnxc_ir::loops::{Address, Buffer, Stride, Val};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::machine::{GENERAL, Memory, Operand};
use super::select::Select;

impl Select<'_> {
    /// The memory operand of an address. What does not change in the inner loops is computed before them; the term that
    /// changes last becomes the index where its stride allows.
    pub(super) fn memory(&mut self, buffer: Buffer, address: &Address) -> Result<Memory, Unsupported> {
        let size = i64::from(
            self.kernel.buffers[buffer].dtype.bytes().ok_or(Unsupported("elements of less than a byte in memory"))?,
        );
        let mut terms = address.terms.to_vec();
        let depth_of = |this: &Self, (val, stride): (Val, Stride)| {
            let stride = match stride {
                Stride::Const(_) => 0,
                Stride::Value(s) => this.depths[s],
            };
            this.depths[val].max(stride)
        };
        terms.sort_by_key(|&t| (depth_of(self, t), t.0));
        let mut pointer = self.buffers[&buffer];
        let mut prefix: Vec<(Val, Stride)> = Vec::new();
        let mut index = None;
        for (i, &term) in terms.iter().enumerate() {
            let depth = depth_of(self, term) as usize;
            let (register, scale) = self.scaled(depth, term, size)?;
            if i + 1 == terms.len() && depth == self.depth() {
                index = Some((register, scale));
                break;
            }
            prefix.push(term);
            let key = (buffer, prefix.clone());
            pointer = match self.scopes[depth].pointers.get(&key) {
                Some(&found) => found,
                None => {
                    let made =
                        self.lea_at(depth, Memory { base: pointer, index: Some((register, scale)), displacement: 0 });
                    self.scopes[depth].pointers.insert(key, made);
                    made
                }
            };
        }
        let bytes = address.offset.checked_mul(size).ok_or(Unsupported("an offset of more than 64 bits"))?;
        match i32::try_from(bytes) {
            Ok(displacement) => Ok(Memory { base: pointer, index, displacement }),
            Err(_) => {
                let far = self.immediate(bytes);
                let base = self.lea(Memory { base: pointer, index: Some((far, 1)), displacement: 0 });
                Ok(Memory { base, index, displacement: 0 })
            }
        }
    }

    /// `value * stride * size` as a register and a scale.
    fn scaled(&mut self, depth: usize, (val, stride): (Val, Stride), size: i64) -> Result<(VReg, u32), Unsupported> {
        let register = match (&self.registers[val], self.constants[val]) {
            (Some(registers), _) => registers[0],
            (None, Some(c)) => self.immediate_at(depth, c.bits as i64),
            (None, None) => panic!("addresses use values that are defined"),
        };
        let bytes = match stride {
            Stride::Const(c) => c.checked_mul(size).ok_or(Unsupported("a stride of more than 64 bits"))?,
            Stride::Value(_) => size,
        };
        if let (Stride::Const(_), 1 | 2 | 4 | 8) = (stride, bytes) {
            return Ok((register, bytes as u32));
        }
        let key = (val, stride, size as u32);
        if let Some(&found) = self.scopes[depth].products.get(&key) {
            return Ok((found, if matches!(stride, Stride::Value(_)) { size as u32 } else { 1 }));
        }
        let product = self.def(GENERAL);
        let scale = match stride {
            Stride::Const(_) => {
                match i32::try_from(bytes) {
                    Ok(bytes) if bytes > 0 && bytes.count_ones() == 1 => {
                        let shift = i64::from(bytes.trailing_zeros());
                        self.op_at(
                            depth,
                            Code::Shl_rm64_imm8,
                            smallvec![Operand::Tied(register, product), Operand::Immediate(shift)],
                        );
                    }
                    Ok(bytes) => self.op_at(
                        depth,
                        Code::Imul_r64_rm64_imm32,
                        smallvec![Operand::Def(product), Operand::Use(register), Operand::Immediate(bytes.into())],
                    ),
                    Err(_) => {
                        let factor = self.immediate_at(depth, bytes);
                        self.op_at(
                            depth,
                            Code::Imul_r64_rm64,
                            smallvec![Operand::Tied(register, product), Operand::Use(factor)],
                        );
                    }
                }
                1
            }
            Stride::Value(s) => {
                let factor = match (&self.registers[s], self.constants[s]) {
                    (Some(registers), _) => registers[0],
                    (None, Some(c)) => self.immediate_at(depth, c.bits as i64),
                    (None, None) => panic!("addresses use values that are defined"),
                };
                self.op_at(
                    depth,
                    Code::Imul_r64_rm64,
                    smallvec![Operand::Tied(register, product), Operand::Use(factor)],
                );
                size as u32
            }
        };
        self.scopes[depth].products.insert(key, product);
        Ok((product, scale))
    }
}
