//! The functions of a program by their addresses.
//!
//! The linker merges functions with the same code: such an address has several names, of which none
//! is known to be the right one.

use super::elf::Symbol;

/// The names of the seven functions of a task, in the order of tokio's table, as both manglings
/// write them: the length, then the name.
const OF_TASKS: [&str; super::FUNCTIONS] = [
    "4poll",
    "8schedule",
    "7dealloc",
    "15try_read_output",
    "21drop_join_handle_slow",
    "17drop_abort_handle",
    "8shutdown",
];

/// The functions, in the order of their addresses.
#[derive(Debug)]
pub(crate) struct Symbols(Vec<Symbol>);

// === impl Symbols ===

impl Symbols {
    /// Takes the functions in the order of their addresses.
    pub(super) fn of(functions: Vec<Symbol>) -> Self {
        Self(functions)
    }

    /// Returns the addresses of all functions.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|symbol| symbol.address)
    }

    /// Returns the functions that begin at an address.
    fn at(&self, address: u64) -> &[Symbol] {
        let begin = self.0.partition_point(|symbol| symbol.address < address);
        let rest = &self.0[begin..];
        let length = rest.partition_point(|symbol| symbol.address == address);
        &rest[..length]
    }

    /// Returns whether a function begins at the address.
    pub(super) fn is_function(&self, address: u64) -> bool {
        !self.at(address).is_empty()
    }

    /// Returns the mangled names of the function that begins at an address.
    pub(crate) fn names(&self, address: u64) -> impl Iterator<Item = &str> {
        self.at(address).iter().map(|symbol| &*symbol.name)
    }

    /// Returns the size of the function that begins at an address.
    pub(super) fn size(&self, address: u64) -> Option<usize> {
        let sizes = self.at(address).iter().map(|symbol| symbol.size);
        usize::try_from(sizes.max()?).ok()
    }

    /// Returns the name of the function that contains an address, in words.
    pub(crate) fn function(&self, address: u64) -> Option<String> {
        let after = self.0.partition_point(|symbol| symbol.address <= address);
        let symbol = &self.0[after.checked_sub(1)?];
        let is_inside = address - symbol.address < symbol.size.max(1);
        is_inside.then(|| demangled(&symbol.name))
    }

    /// Returns whether the seven functions of a task have the names that tokio gives them, in order.
    /// `None` if one has no name.
    pub(crate) fn is_in_order(&self, functions: &[u64; super::FUNCTIONS]) -> Option<bool> {
        let mut is_in_order = true;
        for (function, expected) in functions.iter().zip(OF_TASKS) {
            let suffix = format!("4task3raw{expected}");
            let mut names = self.names(*function).peekable();
            names.peek()?;
            is_in_order &= names.any(|name| name.contains(&suffix));
        }
        Some(is_in_order)
    }

    /// Returns the function of tokio that drops a reference to a task, if it was not inlined.
    pub(super) fn dropping(&self) -> Option<u64> {
        let is = |symbol: &&Symbol| {
            symbol.name.contains("7ref_dec") && symbol.name.contains("task5state")
        };
        self.0.iter().find(is).map(|symbol| symbol.address)
    }

    /// Returns the functions that poll a closure of `select!` or `join!`.
    pub(crate) fn closure_polls(&self) -> Vec<u64> {
        let parts = ["poll_fn", "PollFn", "4poll"];
        let is = |symbol: &&Symbol| parts.iter().all(|part| symbol.name.contains(part));
        let mut polls: Vec<u64> = self
            .0
            .iter()
            .filter(is)
            .map(|symbol| symbol.address)
            .collect();
        polls.dedup();
        polls
    }
}

/// Returns a name in the form of the source.
pub(super) fn demangled(name: &str) -> String {
    // The alternate form leaves out the hash at the end of the name.
    format!("{:#}", backtrace::SymbolName::new(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{OF_TASKS, Symbol, Symbols};

    fn symbols(all: &[(u64, u64, &str)]) -> Symbols {
        let symbol = |(address, size, name): &(u64, u64, &str)| Symbol {
            address: *address,
            size: *size,
            name: (*name).into(),
        };
        Symbols::of(all.iter().map(symbol).collect())
    }

    #[test]
    fn a_function_is_found_by_each_of_its_addresses() {
        let symbols = symbols(&[
            (16, 8, "_ZN4shop4load17h0123456789abcdefE"),
            (16, 8, "b"),
            (32, 4, "c"),
        ]);
        assert_eq!(symbols.names(16).count(), 2);
        assert!(!symbols.is_function(17));
        assert_eq!(symbols.function(35).as_deref(), Some("c"));
        assert_eq!(symbols.function(36), None);
        assert_eq!(symbols.function(15), None);
        let first = [symbols.function(16), symbols.function(23)];
        assert!(
            first
                .iter()
                .flatten()
                .all(|name| ["shop::load", "b"].contains(&&**name))
        );
    }

    #[test]
    fn another_order_of_the_functions_of_a_task_is_noticed() {
        let name = |part: &str| format!("_ZN5tokio7runtime4task3raw{part}17h0123456789abcdefE");
        let names: Vec<String> = OF_TASKS.iter().map(|part| name(part)).collect();
        let all: Vec<(u64, u64, &str)> = (1..)
            .zip(&names)
            .map(|(at, name)| (at * 16, 16, &**name))
            .collect();
        let symbols = symbols(&all);
        let mut functions = [16, 32, 48, 64, 80, 96, 112];
        assert_eq!(symbols.is_in_order(&functions), Some(true));
        functions.swap(3, 4);
        assert_eq!(symbols.is_in_order(&functions), Some(false));
        functions[0] = 8;
        assert_eq!(symbols.is_in_order(&functions), None);
    }
}
