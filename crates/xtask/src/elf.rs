//! Just enough of the ELF format to tell a static binary from one that needs the guest's
//! libraries. Offsets are those of the 64-bit little-endian layout in elf(5).

use std::path::Path;

use crate::failure::{Failure, Result};

/// Symbols through which glibc loads the name-service modules of whatever root file system the
/// program finds itself in. A static program that contains one of them runs the guest's code.
const NAME_SERVICE: [&str; 4] =
    ["getaddrinfo", "getpwnam_r", "getpwuid_r", "__nss_lookup_function"];

const PT_INTERP: u32 = 3;
const SHT_SYMTAB: u32 = 2;
const SHN_UNDEF: u16 = 0;
const SYMBOL_BYTES: usize = 24;

/// The bytes of a 64-bit little-endian ELF file.
pub(crate) struct Elf(Vec<u8>);

impl Elf {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is not a 64-bit little-endian ELF file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(Failure::because(format!("read {}", path.display())))?;
        Self::parse(bytes)
            .ok_or_else(|| Failure::new(format!("{} is not a 64-bit ELF file", path.display())))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        bytes.starts_with(b"\x7fELF\x02\x01").then_some(Self(bytes))
    }

    /// True if the kernel starts it without a dynamic loader.
    pub(crate) fn is_static(&self) -> bool {
        let headers = table(self.u64(0x20), self.u16(0x36), self.u16(0x38));
        !headers.into_iter().any(|header| self.u32(header) == Some(PT_INTERP))
    }

    /// True if it still has the symbol table that [`Elf::name_service_symbols`] reads.
    pub(crate) fn has_symbols(&self) -> bool {
        self.symbol_table().is_some()
    }

    /// The name-service functions that were linked in, by name.
    pub(crate) fn name_service_symbols(&self) -> Vec<&'static str> {
        let Some((symbols, names)) = self.symbol_table() else { return Vec::new() };
        let mut found: Vec<_> = symbols
            .into_iter()
            .filter(|symbol| self.u16(symbol.saturating_add(6)) != Some(SHN_UNDEF))
            .filter_map(|symbol| {
                self.text(names.checked_add(usize::try_from(self.u32(symbol)?).ok()?)?)
            })
            .filter_map(|name| NAME_SERVICE.into_iter().find(|known| known.as_bytes() == name))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Where each symbol is, and where their names begin.
    fn symbol_table(&self) -> Option<(Vec<usize>, usize)> {
        let sections = table(self.u64(0x28), self.u16(0x3a), self.u16(0x3c));
        let symtab =
            *sections.iter().find(|at| self.u32(at.saturating_add(4)) == Some(SHT_SYMTAB))?;
        let offset = self.u64(symtab.checked_add(0x18)?)?;
        let size = self.u64(symtab.checked_add(0x20)?)?;
        let linked = usize::try_from(self.u32(symtab.checked_add(0x28)?)?).ok()?;
        let names = self.u64(sections.get(linked)?.checked_add(0x18)?)?;
        let count = usize::try_from(size).ok()? / SYMBOL_BYTES;
        let first = usize::try_from(offset).ok()?;
        let symbols = (0..count)
            .map_while(|index| first.checked_add(index.checked_mul(SYMBOL_BYTES)?))
            .take_while(|at| *at < self.0.len())
            .collect();
        Some((symbols, usize::try_from(names).ok()?))
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn text(&self, at: usize) -> Option<&[u8]> {
        self.0.get(at..)?.split(|byte| *byte == 0).next()
    }
}

/// Where the entries of a header table begin; empty if the file does not say.
fn table(offset: Option<u64>, entry: Option<u16>, count: Option<u16>) -> Vec<usize> {
    let (Some(offset), Some(entry), Some(count)) = (offset, entry, count) else {
        return Vec::new();
    };
    let Ok(first) = usize::try_from(offset) else { return Vec::new() };
    (0..usize::from(count))
        .map_while(|index| first.checked_add(index.checked_mul(usize::from(entry))?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Elf;

    #[test]
    fn this_program_needs_a_loader_and_has_symbols() {
        let own = Elf::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(!own.is_static(), "tests are built for the host, with its loader");
        assert!(own.has_symbols());
        // The standard library resolves host names in every dynamically linked Rust program, but
        // imports the function rather than containing it.
        assert_eq!(own.name_service_symbols(), Vec::<&str>::new());
    }

    #[test]
    fn a_script_is_not_an_elf_file() {
        assert!(Elf::parse(b"#!/bin/sh\n".to_vec()).is_none());
    }

    #[test]
    fn a_truncated_file_is_read_without_a_panic() {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [6, 16, 64, 65, 1000] {
            let cut = Elf::parse(whole.iter().copied().take(length).collect()).unwrap();
            assert!(!cut.has_symbols());
        }
    }
}
