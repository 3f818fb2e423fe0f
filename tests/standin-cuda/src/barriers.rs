//! `mbarrier`: barriers in shared memory that count arrivals and bytes, phase by phase.
//!
//! A thread that arrives hands on what its warp did before: all of it if the whole warp arrives, else what came before the
//! warp's last barrier. A wait fails until the phase is over; the warp's turn then ends, so that others come to run.

use crate::kernel::{Inst, Place, Pred, Reg};
use crate::races::{SOURCES, Touch, View, join};
use crate::tensor::Underway;
use crate::warp::{Context, Trouble, Warp, lanes_of, trouble};

/// A barrier.
pub struct Barrier {
    address: usize,
    /// Arrivals that a phase wants.
    count: u32,
    /// Those that are missing.
    missing: u32,
    /// Bytes that are missing.
    bytes: i64,
    phase: u32,
    /// What came before the arrivals of this phase, and of those before.
    came: View,
    over: View,
    /// Its number, as a source of copies.
    number: usize,
    /// Whether the copy engine knows it.
    known: bool,
    copies: Vec<Underway>,
    /// Someone asked in vain since nothing but copies is missing.
    asked: bool,
}

impl Barrier {
    /// Ends the phase if nothing is missing.
    fn turn(&mut self) -> bool {
        if self.missing != 0 || self.bytes != 0 {
            return false;
        }
        self.missing = self.count;
        self.phase += 1;
        self.over.clone_from(&self.came);
        true
    }
}

/// What is done to a barrier.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// Makes it, for so many arrivals.
    Make(Reg),
    /// Arrives, perhaps with bytes to expect.
    Arrive(Option<Reg>),
    /// Expects bytes.
    Expect(Reg),
    /// Asks whether the phase of a parity is over.
    Ask { holds: Pred, parity: Reg },
}

impl Context<'_> {
    fn barrier(&mut self, inst: &Inst, lane: usize, address: usize) -> Result<usize, Trouble> {
        self.barriers.iter().position(|b| b.address == address).ok_or_else(|| Trouble {
            address: Some(address as u64),
            ..trouble(inst, lane as u32, "no mbarrier was made here".to_string())
        })
    }
}

impl Context<'_> {
    /// A box that will complete on a barrier.
    pub fn expect_box(&mut self, inst: &Inst, lane: usize, address: usize, copy: Underway) -> Result<(), Trouble> {
        let n = self.barrier(inst, lane, address)?;
        if !self.barriers[n].known {
            let what = "no fence.mbarrier_init made this barrier known to the copy engine".to_string();
            return Err(Trouble { address: Some(address as u64), race: true, ..trouble(inst, lane as u32, what) });
        }
        self.barriers[n].copies.push(copy);
        Ok(())
    }

    /// The copy engine knows the barriers that there are.
    pub fn know_barriers(&mut self) {
        self.barriers.iter_mut().for_each(|barrier| barrier.known = true);
    }

    /// Delivers the boxes of a barrier, if nothing else is missing: to those who ask again, since a device takes time.
    fn deliver_boxes(&mut self, n: usize) {
        let block = self.block_number();
        let barrier = &mut self.barriers[n];
        let bytes: i64 = barrier.copies.iter().map(|copy| 16 * copy.pieces.len() as i64).sum();
        if barrier.missing != 0 || barrier.bytes != bytes || bytes == 0 {
            return;
        }
        self.progress += 1;
        barrier.asked = !barrier.asked;
        if barrier.asked {
            return;
        }
        let segment = self.clock.deliver(block, barrier.number, &mut barrier.came);
        for (at, data) in barrier.copies.drain(..).flat_map(|copy| copy.pieces) {
            self.arriving[at / 4..at / 4 + 4].fill(0);
            self.shared.bytes[at..at + 16].copy_from_slice(&data);
            self.shared.arrived(at, &self.clock, segment);
        }
        barrier.bytes = 0;
        barrier.turn();
    }

    /// The line of a box that was never waited for.
    pub fn undelivered(&self) -> Option<u32> {
        self.barriers.iter().find_map(|barrier| barrier.copies.first()).map(|copy| copy.line)
    }
}

impl Warp {
    /// Does something to a barrier. True if the warp's turn ends.
    pub fn at_barrier(
        &mut self,
        inst: &Inst,
        at: usize,
        mask: u32,
        context: &mut Context,
        (place, deed): (&Place, Deed),
    ) -> Result<bool, Trouble> {
        let (mut holding, mut learned): (u32, Option<View>) = (0, None);
        let whole = mask == self.alive();
        for lane in lanes_of(mask) {
            let making = matches!(deed, Deed::Make(_));
            let touch = if making { Touch::Write } else { Touch::Atomic };
            self.reach(inst, at, lane, place, 8, touch, context)?;
            let address = (self.address(place, lane) & 0xFFFF_FFFF) as usize;
            let wrong = |what: String| Trouble { address: Some(address as u64), ..trouble(inst, lane as u32, what) };
            let low = |reg: Reg, warp: &Warp| (warp.reg(reg)[lane].get() & 0xFFFF_FFFF) as u32;
            if let Deed::Make(count) = deed {
                let count = low(count, self);
                context.barriers.retain(|b| b.address != address);
                let came = vec![0; context.clock.view(&self.moment, false).len()];
                context.barriers.push(Barrier {
                    address,
                    count,
                    missing: count,
                    bytes: 0,
                    phase: 0,
                    over: came.clone(),
                    came,
                    number: context.barriers_made,
                    known: false,
                    copies: Vec::new(),
                    asked: false,
                });
                context.barriers_made += 1;
                if context.barriers_made > SOURCES {
                    return Err(wrong(format!("this tool knows {SOURCES} barriers of a block")));
                }
                continue;
            }
            let n = context.barrier(inst, lane, address)?;
            let bytes = match deed {
                Deed::Arrive(Some(bytes)) | Deed::Expect(bytes) => low(bytes, self),
                _ => 0,
            };
            let view = context.clock.view(&self.moment, whole);
            if matches!(deed, Deed::Ask { .. }) && lane as u32 == mask.trailing_zeros() {
                context.deliver_boxes(n);
            }
            let barrier = &mut context.barriers[n];
            barrier.bytes += i64::from(bytes);
            match deed {
                Deed::Make(_) | Deed::Expect(_) => {}
                Deed::Arrive(_) => {
                    if barrier.missing == 0 {
                        return Err(wrong("arrives at an mbarrier that wants no more arrivals".to_string()));
                    }
                    barrier.missing -= 1;
                    join(&mut barrier.came, &view);
                    barrier.turn();
                    context.progress += 1;
                }
                Deed::Ask { parity, .. } => {
                    let parity = low(parity, self);
                    if parity > 1 {
                        return Err(wrong(format!("{parity} is no parity")));
                    }
                    if barrier.phase & 1 != parity {
                        holding |= 1 << lane;
                        let over = barrier.over.clone();
                        match &mut learned {
                            Some(view) => join(view, &over),
                            None => learned = Some(over),
                        }
                    }
                }
            }
        }
        match deed {
            Deed::Ask { holds, .. } => {
                self.set_pred(holds, holding, mask);
                // What one lane waited for the others have not, but the warp goes on together.
                if let (Some(view), true) = (learned, holding == mask) {
                    self.moment = context.clock.learn(self.moment, &view);
                }
                Ok(holding != mask)
            }
            Deed::Arrive(_) if whole => {
                self.moment = context.clock.after(self.moment);
                Ok(false)
            }
            _ => Ok(false),
        }
    }
}
