//! Attention for a tile of queries on matrix instructions: each warp has sixteen of the rows.
//!
//! The queries go to registers as fragments and stay there. Keys and values go by in steps ([`Plan::keys`] rows of each),
//! two of which lie in shared memory: one that is computed, and one that `cp.async` fills meanwhile, or registers that
//! convert elements on their way. A row of a step is an operand's row and 16 bytes that nobody reads, so that the eight
//! rows that `ldmatrix` reads at once lie in different banks. Elements behind the depth or width, and rows behind the
//! bound, are zeros.
//!
//! A thread has two rows of a step's scores and sums, as the matrix instructions leave them: rows `g` and `g + 8` of the
//! warp, `g` a quarter of its number, and of each eight columns the two from `2 t` on, `t` its number in its quad. So the
//! score's block runs in each thread with numbers of its own, a quad has a row's extremes and sums in two exchanges, and
//! weights are fragments for the second product as they are: of 16 bits at once; words with the columns `2 t` and `2 t + 1`
//! in the places of `t` and `t + 4`, in which order values are read too.
//!
//! Weights are with regard to the greatest score so far; where a step raises it, what was summed before is scaled down.

mod copy;

use onnxc_ir::loops::{Attend, Block, Kernel, TileKind, Val};

use super::facts::Fact;
use super::kernel::{Emit, Team, ins};
use super::text::{Class, Reg};
use super::tile::Way;

/// Bytes of a chunk: what `ldmatrix` takes of a row, and the most that a thread copies at once.
const CHUNK: u32 = 16;

/// Bytes of a row that one matrix instruction takes.
const DEEP: u32 = 32;

/// Rows of a warp.
const PART: u32 = 16;

/// Shared memory that a kernel may declare.
const SHARED: u32 = 48 << 10;

/// The bits of the base-2 logarithm of e.
const LOG2_E: &str = "0x3FB8AA3B";

/// How an attention lies in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    rows: u32,
    /// Keys of a step.
    keys: u32,
    /// Elements of a query and of a value, with the zeros behind them.
    padded: [u32; 2],
    /// Bytes of a row of queries or keys, and of one of values.
    pitch: [u32; 2],
}

impl Plan {
    /// Of an attention whose rows are a multiple of a warp's, with up to 128 elements in a row.
    pub(super) fn of(attend: &Attend) -> Plan {
        let bytes = u32::from(attend.kind.bytes());
        let padded = [attend.depth, attend.width].map(|n| u32::from(n).next_multiple_of(DEEP / bytes));
        let pitch = padded.map(|n| n * bytes + CHUNK);
        let rows = u32::from(attend.rows);
        assert!(rows.is_multiple_of(PART) && u32::from(attend.pitch) >= padded[1], "warps cover the tile");
        let mut keys = 64;
        while 2 * keys * (pitch[0] + pitch[1]) > SHARED {
            keys /= 2;
        }
        assert!(keys >= 16, "rows are short");
        Plan { rows, keys, padded, pitch }
    }

    /// The block's threads, and what it has in shared memory.
    pub(super) fn team(&self) -> Team {
        let bytes = (2 * self.stage()).max(self.rows * self.pitch[0]);
        Team { threads: self.rows / PART * 32, bytes: bytes.into() }
    }

    /// Bytes of a step's keys and values.
    fn stage(&self) -> u32 {
        self.keys * (self.pitch[0] + self.pitch[1])
    }
}

/// A thread's state of its two rows.
struct Rows {
    /// Their numbers, at most the last one's.
    numbers: [Reg; 2],
    most: [Reg; 2],
    totals: [Reg; 2],
    /// Four for each eight columns: two of the first row, two of the second.
    sums: Vec<Reg>,
}

/// Whether an instruction of a block, or of one in it, has `val` as an operand.
fn uses(kernel: &Kernel, block: Block, val: Val) -> bool {
    kernel.blocks[block].insts.iter().any(|&inst| {
        let data = &kernel.insts[inst].data;
        let mut found = false;
        data.for_each_operand(|v| found |= v == val);
        found || data.blocks().into_iter().any(|inner| uses(kernel, inner, val))
    })
}

impl Emit<'_> {
    /// An attention: its sums, then its body.
    pub(super) fn attend(&mut self, attend: &Attend) {
        let plan = Plan::of(attend);
        // Fragments of queries and sums take many registers.
        self.alone = true;
        let (shared, name) = (self.b32(), self.name);
        ins!(self, "mov.u32 {shared}, {name}_shared");
        let [depth, width] = [attend.depth, attend.width].map(u32::from);
        let queries = self.source(attend, &attend.queries, (plan.rows, depth), plan.pitch[0]);
        let keys = self.source(attend, &attend.keys, (plan.keys, depth), plan.pitch[0]);
        let values = self.source(attend, &attend.values, (plan.keys, width), plan.pitch[1]);
        let first = self.get1(attend.queries.first);
        self.copy_rows(&queries, shared, 0, first);
        ins!(self, "cp.async.wait_all");
        ins!(self, "bar.sync 0");
        let (tid, lane) = (self.tid, self.thread);
        let warp = self.by("shr.u32", tid, 5);
        let part = self.by("mul.lo.u32", warp, PART);
        // Matrices in the order of the registers: rows come first for queries and values, depths for keys.
        let (low, eight, sixteen) =
            (self.by("and.b32", lane, 7), self.by("shr.u32", lane, 3), self.by("shr.u32", lane, 4));
        let bit = self.by("and.b32", eight, 1);
        let mut reader = |rows: Reg, depths: Reg, pitch: u32| {
            let row = self.scale_add(rows, 8, low);
            let chunk = self.by("mul.lo.u32", depths, CHUNK);
            self.scale_add(row, pitch, chunk)
        };
        let left = reader(bit, sixteen, plan.pitch[0]);
        let right = reader(sixteen, bit, plan.pitch[0]);
        let mut turned = reader(bit, sixteen, plan.pitch[1]);
        let at = self.plus(shared, left);
        let at = self.scale_add(part, plan.pitch[0], at);
        let depths = plan.padded[0] * u32::from(attend.kind.bytes()) / DEEP;
        let fragments: Vec<[Reg; 4]> = (0..depths).map(|n| self.matrices(attend.kind, "", at, n * DEEP)).collect();
        ins!(self, "bar.sync 0");

        let (quad, within) = (self.by("shr.u32", lane, 2), self.by("and.b32", lane, 3));
        if attend.kind == TileKind::Tf32 {
            let column = self.by("mul.lo.u32", quad, 4);
            turned = self.scale_add(within, 2 * plan.pitch[1], column);
        }
        let turned = self.by("add.u32", turned, plan.keys * plan.pitch[0]);
        let row = self.plus(part, quad);
        let mut rows = self.rows(attend, &plan, row);
        let pair = self.by("shl.b32", within, 1);

        let (read, write, both) = (self.b32(), self.b32(), self.b32());
        ins!(self, "mov.u32 {read}, {shared}");
        ins!(self, "add.u32 {write}, {shared}, {}", plan.stage());
        ins!(self, "xor.b32 {both}, {read}, {write}");
        let (from, next, end) = (self.reg(Class::B64), self.reg(Class::B64), keys.bound);
        let start = self.get1(attend.keys.first);
        ins!(self, "mov.b64 {from}, {start}");
        let values_at = plan.keys * plan.pitch[0];
        self.copy_rows(&keys, read, 0, from);
        self.copy_rows(&values, read, values_at, from);
        let (top, out) = (self.text.label("keys"), self.text.label("summed"));
        let (none, more) = (self.reg(Class::Pred), self.reg(Class::Pred));
        ins!(self, "setp.ge.s64 {none}, {from}, {end}");
        ins!(self, "@{none} bra {out}");
        self.text.place(&top);
        ins!(self, "cp.async.wait_all");
        ins!(self, "bar.sync 0");
        ins!(self, "add.s64 {next}, {from}, {}", plan.keys);
        // Behind the last step come zeros. What goes through registers arrives while one of the products is computed.
        let waiting = self.fetch_rows(&keys, write, 0, next);
        let early = matches!(values.way, Way::Async(_));
        let copied = early.then(|| self.fetch_rows(&values, write, values_at, next));
        let at = self.plus(read, right);
        let scores = self.products(attend.kind, &plan, &fragments, at);
        let scores = self.scores(attend, &plan, &rows, scores, (from, end, pair));
        self.deliver_rows(&keys, write, 0, &waiting);
        let waiting = copied.unwrap_or_else(|| self.fetch_rows(&values, write, values_at, next));
        self.weigh(&mut rows, &scores);
        let at = self.plus(read, turned);
        self.add_values(attend.kind, &plan, &rows.sums, &scores, at);
        self.deliver_rows(&values, write, values_at, &waiting);
        ins!(self, "xor.b32 {read}, {read}, {both}");
        ins!(self, "xor.b32 {write}, {write}, {both}");
        ins!(self, "mov.b64 {from}, {next}");
        ins!(self, "setp.lt.s64 {more}, {from}, {end}");
        ins!(self, "@{more} bra {top}");
        self.text.place(&out);
        ins!(self, "cp.async.wait_all");
        ins!(self, "bar.sync 0");
        self.hand_on(attend, &rows, shared, (row, pair));
    }

    /// Two rounded numbers of 16 bits in a word.
    fn halves(&mut self, kind: TileKind, low: Reg, high: Reg) -> Reg {
        let d = self.b32();
        ins!(self, "cvt.rn.{}x2.f32 {d}, {high}, {low}", kind.name());
        d
    }

    /// Four matrices of eight rows of 16 bytes each.
    fn matrices(&mut self, kind: TileKind, turned: &str, at: Reg, behind: u32) -> [Reg; 4] {
        let regs = [self.b32(), self.b32(), self.b32(), self.b32()];
        let [a, b, c, d] = regs;
        ins!(self, "ldmatrix.sync.aligned.m8n8.x4{turned}.shared.b16 {{{a}, {b}, {c}, {d}}}, [{at}+{behind}]");
        if kind == TileKind::Tf32 { regs.map(|r| self.rounded(r)) } else { regs }
    }

    fn matrix_product(&mut self, kind: TileKind, sums: &[Reg], a: &[Reg; 4], b: [Reg; 2]) {
        let (deep, name) = (DEEP / u32::from(kind.bytes()), kind.name());
        let [s0, s1, s2, s3] = sums[..] else { unreachable!("four sums") };
        let ([a0, a1, a2, a3], [b0, b1]) = (a, b);
        ins!(
            self,
            "mma.sync.aligned.m16n8k{deep}.row.col.f32.{name}.{name}.f32 {{{s0}, {s1}, {s2}, {s3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{s0}, {s1}, {s2}, {s3}}}"
        );
    }

    /// The state before the first step. `row` is the first row's number in the tile.
    fn rows(&mut self, attend: &Attend, plan: &Plan, row: Reg) -> Rows {
        let (first, bound) = (self.get1(attend.queries.first), self.get1(attend.queries.bound));
        let last = self.reg(Class::B64);
        ins!(self, "sub.s64 {last}, {bound}, 1");
        let numbers = [0, 8].map(|ahead| {
            let number = self.reg(Class::B64);
            ins!(self, "cvt.u64.u32 {number}, {row}");
            ins!(self, "add.s64 {number}, {number}, {first}");
            ins!(self, "add.s64 {number}, {number}, {ahead}");
            ins!(self, "min.s64 {number}, {number}, {last}");
            number
        });
        let [most, totals] = [f32::MIN, 0.0].map(|start| {
            [0; 2].map(|_| {
                let r = self.b32();
                ins!(self, "mov.b32 {r}, 0x{:08X}", start.to_bits());
                r
            })
        });
        let sums: Vec<Reg> = (0..plan.padded[1] / 2).map(|_| self.b32()).collect();
        for &sum in &sums {
            ins!(self, "mov.b32 {sum}, 0");
        }
        Rows { numbers, most, totals, sums }
    }

    /// The products of a warp's queries with a step's keys: four for each eight keys.
    fn products(&mut self, kind: TileKind, plan: &Plan, queries: &[[Reg; 4]], at: Reg) -> Vec<Reg> {
        let scores: Vec<Reg> = (0..plan.keys / 2).map(|_| self.b32()).collect();
        for &score in &scores {
            ins!(self, "mov.b32 {score}, 0");
        }
        for (n, query) in queries.iter().enumerate() {
            for (m, scores) in scores.chunks(8).enumerate() {
                let [a, b, c, d] = self.matrices(kind, "", at, m as u32 * 16 * plan.pitch[0] + n as u32 * DEEP);
                self.matrix_product(kind, &scores[..4], query, [a, b]);
                self.matrix_product(kind, &scores[4..], query, [c, d]);
            }
        }
        scores
    }

    /// Takes products to scores; those behind the bound are minus infinity.
    fn scores(
        &mut self,
        attend: &Attend,
        plan: &Plan,
        rows: &Rows,
        products: Vec<Reg>,
        (from, end, pair): (Reg, Reg, Reg),
    ) -> Vec<Reg> {
        let kernel = self.kernel;
        let &[row, column, product] = &kernel.blocks[attend.score].params[..] else {
            unreachable!("a score has three parameters")
        };
        let left = self.reg(Class::B64);
        ins!(self, "sub.s64 {left}, {end}, {from}");
        ins!(self, "min.s64 {left}, {left}, {}", plan.keys);
        let count = self.b32();
        ins!(self, "cvt.u32.u64 {count}, {left}");
        let last = self.by("sub.u32", count, 1);
        let range = |bound: Val| Fact::range(0, self.facts[bound].high.saturating_sub(1).max(0));
        let (row_range, column_range) = (range(attend.queries.bound), range(attend.keys.bound));
        (self.facts[row], self.facts[column]) = (row_range, column_range);
        let by_column = uses(kernel, attend.score, column);
        let scores: Vec<Reg> = products
            .iter()
            .enumerate()
            .map(|(n, &of)| {
                let (eight, second, odd) = (n as u32 / 4, n / 2 % 2, n as u32 % 2);
                self.define(row, vec![rows.numbers[second]]);
                self.define(product, vec![of]);
                if by_column {
                    let within = self.by("add.u32", pair, eight * 8 + odd);
                    let (bounded, number) = (self.b32(), self.reg(Class::B64));
                    ins!(self, "min.u32 {bounded}, {within}, {last}");
                    ins!(self, "cvt.u64.u32 {number}, {bounded}");
                    ins!(self, "add.s64 {number}, {number}, {from}");
                    self.define(column, vec![number]);
                }
                let yielded = self.block(attend.score);
                let (score, own) = (self.get1(yielded[0]), self.b32());
                self.mov(own, score);
                own
            })
            .collect();
        let branches = kernel.blocks[attend.score].insts.iter().any(|&i| !kernel.insts[i].data.blocks().is_empty());
        if branches {
            self.barrier();
        }
        let (whole, all) = (self.reg(Class::Pred), self.text.label("whole"));
        ins!(self, "setp.eq.u32 {whole}, {count}, {}", plan.keys);
        ins!(self, "@{whole} bra {all}");
        let valid = self.b32();
        ins!(self, "sub.s32 {valid}, {count}, {pair}");
        for (n, &score) in scores.iter().enumerate() {
            let exists = self.reg(Class::Pred);
            ins!(self, "setp.gt.s32 {exists}, {valid}, {}", n / 4 * 8 + n % 2);
            ins!(self, "selp.b32 {score}, {score}, 0x{:08X}, {exists}", f32::NEG_INFINITY.to_bits());
        }
        self.text.place(&all);
        scores
    }

    /// `op` with the three other threads of a quad.
    fn of_quad(&mut self, op: &str, value: Reg) {
        for distance in [1, 2] {
            let other = self.b32();
            ins!(self, "shfl.sync.bfly.b32 {other}, {value}, {distance}, 31, 0xffffffff");
            ins!(self, "{op} {value}, {value}, {other}");
        }
    }

    /// Makes weights of scores in place, and scales down what was summed before.
    fn weigh(&mut self, rows: &mut Rows, scores: &[Reg]) {
        for second in 0..2 {
            let own = |n: usize| n / 2 % 2 == second;
            let most = self.b32();
            self.mov(most, rows.most[second]);
            // A score that is not a number makes its weight none, whatever the greatest score is.
            for (_, &score) in scores.iter().enumerate().filter(|&(n, _)| own(n)) {
                ins!(self, "max.f32 {most}, {most}, {score}");
            }
            self.of_quad("max.f32", most);
            // Exponents of 2 are scores times this plus that. So far down that the product could overflow, different scores
            // are so far apart that the base does not matter.
            let (deep, factor, base) = (self.reg(Class::Pred), self.b32(), self.b32());
            ins!(self, "setp.lt.f32 {deep}, {most}, 0f{:08X}", (-2e38f32).to_bits());
            ins!(self, "selp.b32 {factor}, 0x{:08X}, {LOG2_E}, {deep}", 1f32.to_bits());
            ins!(self, "mul.rn.f32 {base}, {most}, {factor}");
            ins!(self, "neg.f32 {base}, {base}");
            let (down, total) = (self.b32(), rows.totals[second]);
            ins!(self, "fma.rn.f32 {down}, {}, {factor}, {base}", rows.most[second]);
            ins!(self, "ex2.approx.ftz.f32 {down}, {down}");
            ins!(self, "mul.rn.f32 {total}, {total}, {down}");
            for (_, &score) in scores.iter().enumerate().filter(|&(n, _)| own(n)) {
                ins!(self, "fma.rn.f32 {score}, {score}, {factor}, {base}");
                ins!(self, "ex2.approx.ftz.f32 {score}, {score}");
                ins!(self, "add.rn.f32 {total}, {total}, {score}");
            }
            for (_, &sum) in rows.sums.iter().enumerate().filter(|&(n, _)| own(n)) {
                ins!(self, "mul.rn.f32 {sum}, {sum}, {down}");
            }
            self.mov(rows.most[second], most);
        }
    }

    /// Adds the products of a step's weights and values.
    fn add_values(&mut self, kind: TileKind, plan: &Plan, sums: &[Reg], weights: &[Reg], at: Reg) {
        let pitch = plan.pitch[1];
        if kind == TileKind::Tf32 {
            for (n, weights) in weights.chunks(4).enumerate() {
                let [w0, w1, w2, w3] = weights[..] else { unreachable!("four weights") };
                let fragment = [w0, w2, w1, w3].map(|w| self.rounded(w));
                for (m, sums) in sums.chunks(4).enumerate() {
                    let place = n as u32 * 8 * pitch + m as u32 * DEEP;
                    let values = [place, place + pitch].map(|place| {
                        let r = self.b32();
                        ins!(self, "ld.shared.b32 {r}, [{at}+{place}]");
                        self.rounded(r)
                    });
                    self.matrix_product(kind, sums, &fragment, values);
                }
            }
            return;
        }
        for (n, weights) in weights.chunks(8).enumerate() {
            let pairs: Vec<Reg> = weights.chunks(2).map(|pair| self.halves(kind, pair[0], pair[1])).collect();
            let [a, b, c, d] = pairs[..] else { unreachable!("eight weights") };
            for (m, sums) in sums.chunks(8).enumerate() {
                let values = self.matrices(kind, ".trans", at, n as u32 * 16 * pitch + m as u32 * DEEP);
                self.matrix_product(kind, &sums[..4], &[a, b, c, d], [values[0], values[1]]);
                self.matrix_product(kind, &sums[4..], &[a, b, c, d], [values[2], values[3]]);
            }
        }
    }

    /// Divides the sums, puts them into the scratch buffer, and runs the body.
    fn hand_on(&mut self, attend: &Attend, rows: &Rows, shared: Reg, (row, pair): (Reg, Reg)) {
        let scales = rows.totals.map(|total| {
            self.of_quad("add.rn.f32", total);
            let (one, scale) = (self.b32(), self.b32());
            ins!(self, "mov.b32 {one}, 0x{:08X}", 1f32.to_bits());
            ins!(self, "div.rn.f32 {scale}, {one}, {total}");
            scale
        });
        let pitch = u32::from(attend.pitch);
        let element = self.scale_add(row, pitch, pair);
        let at = self.scale_add(element, 4, shared);
        for (n, sums) in rows.sums.chunks(2).enumerate() {
            let (eight, second) = (n as u32 / 2, n % 2);
            for &sum in sums {
                ins!(self, "mul.rn.f32 {sum}, {sum}, {}", scales[second]);
            }
            let place = (second as u32 * 8 * pitch + eight * 8) * 4;
            ins!(self, "st.shared.v2.b32 [{at}+{place}], {{{}, {}}}", sums[0], sums[1]);
        }
        ins!(self, "bar.sync 0");
        self.block(attend.body);
        ins!(self, "bar.sync 0");
    }
}
