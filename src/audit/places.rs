//! Where addresses are, for those who have no names: the file, and the place in it that addr2line(1) takes.

use super::frame::Frame;

/// The files that are mapped into the process.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<Place>);

#[derive(Debug)]
struct Place {
    start: usize,
    end: usize,
    /// Where the file begins.
    base: usize,
    file: String,
}

// === impl Places ===

impl Places {
    /// Those of this moment: none where the system does not tell.
    pub(crate) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default())
    }

    /// See proc_pid_maps(5).
    fn parse(maps: &str) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for line in maps.lines() {
            let Some((start, end, path)) = mapping(line) else {
                continue;
            };
            let file = path.rsplit('/').next().unwrap_or(path);
            // A file's mappings are one behind the other.
            let base = match places.last() {
                Some(last) if last.file == file => last.base,
                _ => start,
            };
            places.push(Place {
                start,
                end,
                base,
                file: file.to_owned(),
            });
        }
        Self(places)
    }

    /// A frame that shows the address alone.
    pub(crate) fn frame(&self, address: usize) -> Frame {
        let place = self
            .0
            .iter()
            .find(|place| (place.start..place.end).contains(&address));
        Frame {
            function: format!("{address:#x}"),
            file: place.map(|place| format!("{}+{:#x}", place.file, address - place.base)),
            line: None,
        }
    }
}

/// `55d0c8a00000-55d0c8a21000 r-xp 00021000 fe:00 1234    /usr/bin/orders`.
fn mapping(line: &str) -> Option<(usize, usize, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let path = rest.splitn(4, ' ').nth(3)?.split_once(' ')?.1.trim_start();
    let number = |text| usize::from_str_radix(text, 16).ok();
    (!path.is_empty()).then_some((number(start)?, number(end)?, path))
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn an_address_is_shown_with_its_file_and_the_place_in_it() {
        let places = Places::parse(
            "55d0c8a00000-55d0c8a21000 r--p 00000000 fe:00 1234                       /usr/bin/or ders\n\
             55d0c8a21000-55d0c8a41000 r-xp 00021000 fe:00 1234                       /usr/bin/or ders\n\
             7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
             7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]\n",
        );
        for (address, shown) in [
            (0x55d0c8a21010, "0x55d0c8a21010 (or ders+0x21010)"),
            (0x7f0000000000, "0x7f0000000000"),
            (0x7ffd00000abc, "0x7ffd00000abc ([vdso]+0xabc)"),
            (0x10, "0x10"),
        ] {
            assert_eq!(places.frame(address).to_string(), shown);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn our_own_code_is_in_our_own_file() {
        let address = our_own_code_is_in_our_own_file as *const () as usize;
        let shown = Places::read().frame(address).to_string();
        let program = std::env::current_exe().expect("a test has a file");
        let name = program
            .file_name()
            .expect("it has a name")
            .to_string_lossy();
        assert!(shown.contains(&*format!("({name}+0x")), "{shown}");
    }
}
