//! Debug information in files of its own (`split-debuginfo`): a package for the whole program (`.dwp`), or a file for each
//! unit (`.dwo`).
//!
//! A unit in the program is then a skeleton: it has addresses and lines, and the number of the unit with the types. A file
//! that has no unit of this number is of another build, and is not used.

use super::elf::Elf;
use gimli::{DwarfPackage, DwarfPackageSections, DwarfSections, DwoId, EndianSlice, LittleEndian};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The type of the bytes that are read.
pub(super) type Bytes<'p> = EndianSlice<'p, LittleEndian>;

/// The most files that are read besides the package. A large program has some thousand.
const FILES: usize = 1 << 14;

/// The files with the debug information of a program, each read when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Split {
    /// The root folder of the process, such as `/proc/17/root`.
    root: PathBuf,
    /// The program, as the process sees it.
    program: PathBuf,
    /// The bytes that may still be read.
    left: Cell<u64>,
    package: OnceCell<Option<DwarfPackageSections<Vec<u8>>>>,
    /// The places of files among all, by their paths.
    known: RefCell<HashMap<PathBuf, usize>>,
    files: OnceCell<Box<[Sections]>>,
}

/// The sections of a file; `None` if it cannot be read.
type Sections = OnceCell<Option<Box<DwarfSections<Vec<u8>>>>>;

/// The rest of a unit of which the program has a skeleton.
#[derive(Debug)]
pub(super) struct Rest<'p> {
    pub(super) dwarf: gimli::Dwarf<Bytes<'p>>,
    pub(super) unit: gimli::Unit<Bytes<'p>>,
}

// === impl Split ===

impl Split {
    /// Takes the files of a process's program, of which the path is as the process sees it.
    pub(crate) fn of(pid: u32, program: &str) -> Self {
        Self {
            root: PathBuf::from(format!("/proc/{pid}/root")),
            // A program that was replaced on disk still runs; then the numbers tell.
            program: PathBuf::from(program.trim_end_matches(" (deleted)")),
            ..Self::default()
        }
    }

    /// Sets the most bytes of all files together.
    pub(super) fn limit(&self, bytes: u64) {
        self.left.set(bytes);
    }

    /// Returns the rest of a unit: from the package, or else from the file that the skeleton names.
    pub(super) fn rest<'p>(
        &'p self,
        program: &gimli::Dwarf<Bytes<'p>>,
        skeleton: &gimli::Unit<Bytes<'p>>,
    ) -> Option<Rest<'p>> {
        let id = skeleton.dwo_id?;
        let packed = || self.package()?.find_cu(id, program).ok()?;
        let packed = packed().and_then(|dwarf| rest_in(dwarf, id));
        let mut rest = packed.or_else(|| rest_in(self.file(program, skeleton)?, id))?;
        rest.unit.copy_relocated_attributes(skeleton);
        Some(rest)
    }

    fn package(&self) -> Option<DwarfPackage<Bytes<'_>>> {
        let read = || {
            let mut path = self.program.clone().into_os_string();
            path.push(".dwp");
            let elf = self.elf(Path::new(&path))?;
            let load = |id: gimli::SectionId| Ok::<_, gimli::Error>(self.section(&elf, id));
            DwarfPackageSections::load(load).ok()
        };
        let bytes = |section| EndianSlice::new(section, LittleEndian);
        let sections = self.package.get_or_init(read).as_ref()?;
        let package = sections.borrow(|section: &Vec<u8>| bytes(section), bytes(&[]));
        package.ok()
    }

    /// Returns the file that a skeleton names.
    fn file<'p>(
        &'p self,
        program: &gimli::Dwarf<Bytes<'p>>,
        skeleton: &gimli::Unit<Bytes<'p>>,
    ) -> Option<gimli::Dwarf<Bytes<'p>>> {
        let name = program.attr_string(skeleton, skeleton.dwo_name().ok()??);
        let name = name.ok()?.to_string_lossy().into_owned();
        let folder = skeleton.comp_dir.map(|folder| folder.to_string_lossy());
        let path = Path::new(folder.as_deref().unwrap_or_default()).join(name);
        let next = self.known.borrow().len();
        let at = *self.known.borrow_mut().entry(path.clone()).or_insert(next);
        let files = self
            .files
            .get_or_init(|| (0..FILES).map(|_| OnceCell::new()).collect());
        let read = || {
            let elf = self.elf(&path)?;
            let load = |id: gimli::SectionId| Ok::<_, gimli::Error>(self.section(&elf, id));
            DwarfSections::load(load).ok().map(Box::new)
        };
        let sections = files.get(at)?.get_or_init(read).as_ref()?;
        let mut dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
        dwarf.make_dwo(program);
        Some(dwarf)
    }

    /// Opens a file as the process sees it, or else as this process sees it: a container may lack it.
    fn elf(&self, path: &Path) -> Option<Elf> {
        if !path.is_absolute() {
            return None;
        }
        let inside = self.root.join(path.strip_prefix("/").ok()?);
        let file = open(&inside).or_else(|| open(path))?;
        Elf::read(file).ok()
    }

    fn section(&self, elf: &Elf, id: gimli::SectionId) -> Vec<u8> {
        let Some(name) = id.dwo_name() else {
            return Vec::new();
        };
        let left = self.left.get().checked_sub(elf.size(name));
        left.map_or_else(Vec::new, |left| {
            self.left.set(left);
            elf.section(name)
        })
    }
}

/// Opens a file. Its path is what the program says, so anything else there is not opened or waited for.
fn open(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).ok()?;
    let is_file = file.metadata().is_ok_and(|data| data.is_file());
    is_file.then_some(file)
}

/// Returns the unit of a number.
fn rest_in(dwarf: gimli::Dwarf<Bytes<'_>>, id: DwoId) -> Option<Rest<'_>> {
    let mut units = dwarf.units();
    while let Ok(Some(header)) = units.next() {
        if let Ok(unit) = dwarf.unit(header)
            && unit.dwo_id == Some(id)
        {
            return Some(Rest { dwarf, unit });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::{read_with, seed};
    use super::{Split, open};
    use std::fs::File;
    use std::path::Path;

    /// Returns the numbers of types and of lines that are read of a program.
    fn read(program: &Path) -> (usize, usize) {
        let file = File::open(program).expect("it was built");
        let path = program.to_str().expect("it is UTF-8");
        read_with(file, Split::of(std::process::id(), path))
    }

    #[test]
    fn debug_information_in_files_of_its_own_is_read_as_that_in_the_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let whole = read(&seed(folder.path(), &[]));
        assert!(whole.0 > 5 && whole.1 > 3, "{whole:?}");
        for version in ["-Cdwarf-version=4", "-Cdwarf-version=5"] {
            assert_eq!(read(&seed(folder.path(), &[version])), whole, "{version}");
            for split in ["packed", "unpacked"] {
                let folder = tempfile::tempdir().expect("a folder");
                let split = format!("-Csplit-debuginfo={split}");
                let program = seed(folder.path(), &[version, &split]);
                assert_eq!(read(&program), whole, "{split}, {version}");
            }
        }
    }

    #[test]
    fn a_package_that_is_missing_or_of_another_build_is_not_used() {
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let split = "-Csplit-debuginfo=packed";
        let program = seed(folder.path(), &[split]);
        let whole = read(&program);
        let package = folder.path().join("seed.dwp");
        let kept = std::fs::read(&package).expect("it was built");
        std::fs::remove_file(&package).expect("it is there");
        let (types, lines) = read(&program);
        assert_eq!((types, lines), (0, whole.1), "the program has the lines");
        seed(other.path(), &[split, "-Ccodegen-units=1", "-Copt-level=3"]);
        std::fs::copy(other.path().join("seed.dwp"), &package).expect("it was built");
        assert_eq!(read(&program), (0, whole.1));
        std::fs::write(&package, &kept[..kept.len() / 2]).expect("it is a file");
        assert_eq!(read(&program), (0, whole.1), "half of a package");
        std::fs::write(&package, kept).expect("it is a file");
        assert_eq!(read(&program), whole);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("seed.dwp");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let made = rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0);
        made.expect("the folder is its own");
        assert!(open(&pipe).is_none());
        assert!(open(folder.path()).is_none());
    }
}
