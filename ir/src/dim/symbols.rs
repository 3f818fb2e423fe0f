//! Named symbols and the bounds on their values.

use cranelift_entity::{PrimaryMap, entity_impl};
use std::collections::HashMap;

/// Upper bound of a symbol about which nothing is known. Products with small factors still fit 64 bits.
pub const DEFAULT_HIGH: i64 = i64::MAX >> 8;

/// What a symbol is in the sample where nothing bounds it.
const SAMPLE: i64 = 128;

/// A dimension known by name, such as `batch`; a handle into [`Symbols`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(u32);
entity_impl!(Symbol, "s");

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    low: i64,
    high: i64,
}

/// The table of symbols: handle <-> name, and inclusive bounds for each value.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    entries: PrimaryMap<Symbol, Entry>,
    by_name: HashMap<String, Symbol>,
}

impl Symbols {
    /// An empty table.
    pub fn new() -> Symbols {
        Symbols::default()
    }

    /// The symbol of that name, made with bounds `0..=DEFAULT_HIGH` if there is none.
    pub fn intern(&mut self, name: &str) -> Symbol {
        if let Some(&symbol) = self.by_name.get(name) {
            return symbol;
        }
        let symbol = self.entries.push(Entry { name: name.to_owned(), low: 0, high: DEFAULT_HIGH });
        self.by_name.insert(name.to_owned(), symbol);
        symbol
    }

    /// A new symbol that no expression mentions yet, for a size that only the run decides. Its name starts with
    /// `prefix`.
    pub fn fresh(&mut self, prefix: &str) -> Symbol {
        let mut number = self.entries.len();
        loop {
            let name = format!("{prefix}_{number}");
            if !self.by_name.contains_key(&name) {
                return self.intern(&name);
            }
            number += 1;
        }
    }

    /// The symbol of that name.
    pub fn lookup(&self, name: &str) -> Option<Symbol> {
        self.by_name.get(name).copied()
    }

    /// The name of a symbol of this table.
    pub fn name(&self, symbol: Symbol) -> &str {
        &self.entries[symbol].name
    }

    /// The inclusive bounds of a symbol of this table.
    pub fn bounds(&self, symbol: Symbol) -> (i64, i64) {
        let entry = &self.entries[symbol];
        (entry.low, entry.high)
    }

    /// The value of a symbol in the one sample by which sizes of all values are compared: its upper bound, where it has one.
    pub fn sample(&self, symbol: Symbol) -> i64 {
        let (low, high) = self.bounds(symbol);
        if high < DEFAULT_HIGH { high } else { low.max(SAMPLE) }
    }

    /// Intersects a symbol's bounds with `low..=high`. False, and no change, where nothing would be left.
    pub fn restrict(&mut self, symbol: Symbol, low: i64, high: i64) -> bool {
        let entry = &mut self.entries[symbol];
        let (low, high) = (entry.low.max(low), entry.high.min(high));
        if low > high {
            return false;
        }
        (entry.low, entry.high) = (low, high);
        true
    }

    /// Sets a symbol's bounds, where those of a size are too narrow. False, and no change, where they are empty.
    pub fn widen(&mut self, symbol: Symbol, low: i64, high: i64) -> bool {
        if low <= high {
            let entry = &mut self.entries[symbol];
            (entry.low, entry.high) = (low, high);
        }
        low <= high
    }

    /// All symbols in order of their handles.
    pub fn iter(&self) -> impl Iterator<Item = Symbol> + '_ {
        self.entries.keys()
    }

    /// How many symbols there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no symbol.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
