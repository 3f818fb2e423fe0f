//! How a matrix product is cut: tiles for the registers, blocks of depth for the nearest cache, tasks for the second.
//!
//! A cost model in three steps. A tile is what the vector registers hold. A block of depth is as much of a panel as stays
//! in the first-level cache while the tiles of a task run down the rows; sums pass from block to block through scratch.
//! A task takes as many rows as the second-level cache holds of the left operand, because it reads them once for each
//! panel.

use onnxc_ir::dim::Dim;
use onnxc_ir::machine::MachineModel;

use super::{Gemm, PANEL, Panels};
use crate::codegen::space::product;

/// Multiply-adds of a task at least: enough to pay for handing it to a worker.
const TASK_WORK: i64 = 1 << 19;

/// Reading a strip of weights costs as much as this many rows of multiply-adds.
const READING: i64 = 20;

/// A task has at most this many strips.
const MOST_STRIPS: i64 = 64;

/// A task has at most this many rows; its sums in scratch stay small.
const MOST_ROWS: i64 = 256;

/// A task has this many rows at least where there are more: a panel comes from memory once for each task.
const LEAST_ROWS: i64 = 32;

/// Sums that have to be under way at once: two multiply-adds begin in each cycle, and each takes four.
const CHAINS: i64 = 8;

/// The cut of one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Rows of a tile.
    pub tile_rows: i64,
    /// Vectors of a tile's row.
    pub vectors: i64,
    /// Lines of a task.
    pub lines: i64,
    /// Rows of each line of a task, a multiple of `tile_rows`.
    pub rows: i64,
    /// Contracted dimensions of which a block of depth has one coordinate each, outermost first.
    pub fixed: usize,
    /// Coordinates of the next contracted dimension that a block has; its extent when it is not cut.
    pub chunk: Option<i64>,
    /// Blocks of depth.
    pub blocks: i64,
    /// Panels of a task.
    pub run: i64,
}

/// `a / b` rounded up; both are positive.
pub fn ceil_div(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

impl Blocking {
    /// Cuts a product for a machine.
    pub fn new(gemm: &Gemm, panels: &Panels, machine: &MachineModel, lanes: u16) -> Blocking {
        // Registers of 512 bits take two panels, so that each broadcast element is used twice.
        let panel = (i64::from(PANEL) / i64::from(lanes)).clamp(2, 4);
        let few = few_rows(gemm).filter(|_| matches!(panels, Panels::Stored));
        let vectors = match few {
            Some(rows) => vectors_of_few(rows, gemm, lanes),
            // Where factors take two registers, there is room for two.
            None if gemm.words.is_some() && machine.dots.factor_registers > 1 => 2,
            None => panel,
        };
        let registers = i64::from(machine.kernel_vector_registers);
        let most = match gemm.words {
            Some(_) if !machine.multiplies_by_lanes || machine.dots.temporaries > 0 => rows_of_words(machine, vectors),
            Some(_) | None => (registers - vectors - 2) / vectors,
        };
        let most = most.clamp(1, 8);
        let nr = vectors * i64::from(lanes);
        let element = i64::from(gemm.acc.bits() / 8);

        let row_bytes = gemm.row_bytes.as_const().unwrap_or(4096).max(1);
        let room = (machine.l2_bytes as i64 * 3 / 4 / row_bytes).clamp(LEAST_ROWS, MOST_ROWS);
        // Rows are spread evenly over tiles, and tiles over tasks: 14 rows are two tiles of 7 rather than 8 and 6.
        let tile_rows = match gemm.rows.as_const() {
            Some(all) if all > 0 => ceil_div(all, ceil_div(all, most)),
            _ => most,
        };
        let grid = Grid::of(gemm, nr);
        let most_rows = grid.as_ref().map_or(room, |grid| room.min(grid.rows_of_a_task(machine)));
        let rows = match gemm.rows.as_const() {
            Some(all) if all > 0 => {
                let tiles = ceil_div(all, tile_rows);
                even_part(tiles, ceil_div(all, most_rows), |size| size) * tile_rows
            }
            _ => (room / most).max(1) * most,
        };
        let lines = match (product(&gemm.lines).as_const(), gemm.rows.as_const()) {
            (Some(lines), Some(all)) if all <= rows => {
                let lines = lines.max(1);
                even_part(lines, ceil_div(lines, (most_rows / rows).clamp(1, lines)), |size| size)
            }
            _ => 1,
        };

        let depth: Option<Vec<i64>> = gemm.contracted.iter().map(Dim::as_const).collect();
        let whole = depth.as_ref().map(|d| d.iter().product::<i64>());
        let tiles = lines * rows / tile_rows;
        let stored = matches!(panels, Panels::Stored);
        // Rows a multiple of the page apart meet in few sets of the cache: shorter blocks leave room for them.
        let share = if row_bytes % 4096 == 0 { 2 } else { 1 };
        let most_depth = (machine.l1d_bytes as i64 * 2 / 3 / share / (nr * element)).max(1);
        let (fixed, chunk, blocks) = match depth {
            Some(depth) if stored && tiles > 2 && whole.is_some_and(|d| d > most_depth) => cut(&depth, most_depth),
            _ => (0, None, 1),
        };

        let run = grid.map_or(1, |grid| grid.strips_of_a_task(lines, rows, machine));
        Blocking { tile_rows, vectors, lines, rows, fixed, chunk, blocks, run }
    }

    /// Cuts for numbers of rows that a run may bring and that are too few for the tiles of `cut`: tiles of some of its
    /// strips side by side. None where the number is known.
    pub fn of_few_rows(gemm: &Gemm, panels: &Panels, cut: &Blocking, lanes: u16) -> Vec<Blocking> {
        if gemm.rows.as_const().is_some() || !matches!(panels, Panels::Stored) {
            return Vec::new();
        }
        let wider = |rows: i64| {
            let vectors = vectors_of_few(rows, gemm, lanes);
            let whole = vectors > cut.vectors && vectors % cut.vectors == 0;
            whole.then_some(Blocking {
                tile_rows: rows,
                vectors,
                lines: 1,
                rows,
                fixed: 0,
                chunk: None,
                blocks: 1,
                run: 1,
            })
        };
        (1..CHAINS).filter_map(wider).collect()
    }
}

impl Blocking {
    /// Steps of a block of depth, at most, with these contracted dimensions.
    pub fn steps(&self, depth: &[i64]) -> i64 {
        let (own, inner) = depth[self.fixed..].split_first().expect("a dimension is cut");
        self.chunk.unwrap_or(*own) * inner.iter().product::<i64>()
    }

    /// The cut in words.
    pub fn describe(&self, panels: &Panels, lanes: u16) -> String {
        let Blocking { tile_rows, vectors, lines, rows, blocks, run, .. } = self;
        let from = match panels {
            Panels::Stored => "packed weights",
            Panels::Copied => "the right operand copied into panels",
        };
        let mut text = format!("matrix product over {from}, tile {tile_rows}x{vectors} vectors of {lanes} lanes");
        if *blocks > 1 {
            text.push_str(&format!(", depth in {blocks} blocks that stay in the first-level cache"));
        }
        text.push_str(&format!(", a task has {lines} x {rows} rows and {run} panels"));
        text
    }
}

/// Products of constant sizes, as they are cut into tasks.
///
/// Cores that have the same rows in one kernel after the other find them in their caches; cores that have the same
/// columns read all rows, those of other cores included, but only their part of the weights. So products of many rows
/// are cut along them, others along the columns.
struct Grid {
    /// Products beside each other.
    outer: i64,
    lines: i64,
    /// Rows of each line.
    rows: i64,
    strips: i64,
    /// Columns of all strips.
    columns: i64,
    /// Multiply-adds of a row of a strip.
    row_work: i64,
}

impl Grid {
    /// None where a size is not known.
    fn of(gemm: &Gemm, nr: i64) -> Option<Grid> {
        let columns = gemm.columns.as_const()?;
        let depth = product(gemm.contracted.iter()).as_const()?;
        Some(Grid {
            outer: product(&gemm.outer).as_const()?.max(1),
            lines: product(&gemm.lines).as_const()?.max(1),
            rows: gemm.rows.as_const()?.max(1),
            strips: ceil_div(columns, nr).max(1),
            columns,
            row_work: depth.saturating_mul(nr).max(1),
        })
    }

    /// What a strip of so many rows costs; few rows cost what it takes to read the strip.
    fn work(&self, rows: i64) -> i64 {
        self.row_work.saturating_mul(rows.max(READING))
    }

    /// How many tasks the whole is worth.
    fn wanted(&self, machine: &MachineModel) -> i64 {
        tasks_worth(self.work(self.lines * self.rows).saturating_mul(self.outer * self.strips), machine)
    }

    /// Rows that a task should have at most.
    fn rows_of_a_task(&self, machine: &MachineModel) -> i64 {
        let all = self.lines * self.rows;
        let tasks = ceil_div(self.wanted(machine), self.outer).min(all / LEAST_ROWS);
        if tasks <= 1 || self.columns > 2 * all * self.outer { all } else { ceil_div(all, tasks) }
    }

    /// Strips that a task should have where it has so many rows.
    fn strips_of_a_task(&self, lines: i64, rows: i64, machine: &MachineModel) -> i64 {
        let blocks = self.outer * ceil_div(self.lines, lines) * ceil_div(self.rows, rows);
        let parts = ceil_div(self.wanted(machine), blocks).min(self.strips);
        even_part(self.strips, parts, |size| size).min(MOST_STRIPS)
    }
}

/// How many tasks so many multiply-adds are worth.
pub fn tasks_worth(multiply_adds: i64, machine: &MachineModel) -> i64 {
    (multiply_adds / TASK_WORK).clamp(1, 2 * i64::from(machine.cores))
}

/// The size of the parts, the last one smaller, into which `whole` is cut: at least `parts`, and some more if two or
/// four cores then share them more evenly. `round` makes sizes ones that can be.
pub fn even_part(whole: i64, parts: i64, round: impl Fn(i64) -> i64) -> i64 {
    let balance = |size: i64| {
        let count = ceil_div(whole, size);
        let load = |cores: i64| whole * 100 / (ceil_div(count, cores) * size * cores);
        if count == 1 { 0 } else { 4 * load(2) + load(4) }
    };
    let most = ceil_div(whole, parts.max(1));
    if parts <= 1 {
        return round(most);
    }
    let sizes = ((most * 2 / 3).max(1)..=most).map(round);
    sizes.max_by_key(|&size| (balance(size), size)).expect("the greatest size is there")
}

/// Rows of a tile of words whose sums and factors fit the registers, where dot products do not take lanes of registers as
/// multiply-adds of floats do.
fn rows_of_words(machine: &MachineModel, vectors: i64) -> i64 {
    let dots = &machine.dots;
    let factor = i64::from(dots.factor_registers);
    let registers = i64::from(machine.kernel_vector_registers) - i64::from(dots.temporaries);
    if machine.multiplies_by_lanes {
        // A row has its sums, the words of some steps, and the one at hand.
        return (registers - 2) / (vectors + 2);
    }
    (registers - factor * vectors - factor - 1) / vectors
}

/// Rows of the left operand, if they are too few for a tile.
fn few_rows(gemm: &Gemm) -> Option<i64> {
    let rows = product(gemm.lines.iter().chain([&gemm.rows])).as_const()?;
    (1..CHAINS).contains(&rows).then_some(gemm.rows.as_const()?)
}

/// Vectors of a tile of so few rows: enough sums that none waits for the one before it; whole panels, of a number that
/// divides theirs if one near it does.
fn vectors_of_few(rows: i64, gemm: &Gemm, lanes: u16) -> i64 {
    let panel = i64::from(PANEL) / i64::from(lanes);
    let all = gemm.columns.as_const().map_or(1, |n| ceil_div(n, i64::from(PANEL)));
    let most = (CHAINS / rows / panel).clamp(1, all);
    let least = most.div_euclid(2).max(1);
    let divides = |panels: &i64| all % panels == 0;
    // Strips of an even number are shared evenly; half of the sums still keep up with the memory.
    let even = |panels: &i64| divides(panels) && all / panels % 2 == 0;
    let mut sizes = (least..=most).rev();
    let panels = sizes.clone().find(even).or_else(|| sizes.find(divides)).unwrap_or(most);
    (panels * panel).max(2)
}

/// Cuts the contracted dimensions so that a block has at most `most` positions, about evenly.
fn cut(depth: &[i64], most: i64) -> (usize, Option<i64>, i64) {
    let inner = |fixed: usize| depth[fixed + 1..].iter().product::<i64>();
    let fixed = (0..depth.len()).find(|&fixed| inner(fixed) <= most).expect("one position always fits");
    let extent = depth[fixed];
    let pieces = ceil_div(extent, (most / inner(fixed)).max(1));
    let chunk = ceil_div(extent, pieces);
    let blocks = depth[..fixed].iter().product::<i64>() * ceil_div(extent, chunk);
    (fixed, (chunk < extent).then_some(chunk), blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_two_cores_share() {
        let any = |size| size;
        assert_eq!(even_part(10, 1, any), 10, "one part is the whole");
        assert_eq!(even_part(25, 2, any), 13, "two halves, nearly");
        assert_eq!(even_part(49, 3, any), 13, "four parts rather than three");
        assert_eq!(even_part(49, 2, |size| (size + 6) / 7 * 7), 28, "four and three tiles of seven");
    }

    #[test]
    fn depth_is_cut_evenly_from_the_outside() {
        assert_eq!(cut(&[768], 256), (0, Some(256), 3));
        assert_eq!(cut(&[300], 256), (0, Some(150), 2));
        assert_eq!(cut(&[3, 3, 64], 256), (0, Some(1), 3));
        assert_eq!(cut(&[3, 3, 256], 256), (1, Some(1), 9));
        assert_eq!(cut(&[3, 3, 512], 256), (2, Some(256), 18));
        assert_eq!(cut(&[3, 3, 128], 256), (1, Some(2), 6));
    }
}
