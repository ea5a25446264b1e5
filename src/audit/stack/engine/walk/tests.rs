use super::super::memory::Memory;
use super::super::modules::Modules;
use super::{FRAMES, Registers, Walker, Window, arch};

/// Whatever is in the memory of a thread that works on while it is read, unwinding it ends, and does not panic.
#[test]
fn a_stack_of_nonsense_is_unwound_to_some_end() {
    let memory = Memory::open();
    let mut modules = Modules::default();
    modules.refresh(&memory);
    let mut walker = Walker::default();
    let mut random = fastrand::Rng::with_seed(7);
    let code = modules.code();
    let bottom = 0x7000_0000_0000;
    for _ in 0..3000 {
        let mut word = || match random.u8(0..4) {
            0 => 0,
            1 => random.u64(..),
            2 => bottom + random.u64(0..4096),
            _ => {
                let code = random.choice(&code).expect("there is code");
                random.u64(code.clone())
            }
        };
        let stack: Vec<u64> = (0..512).map(|_| word()).collect();
        let registers = Registers {
            pc: word(),
            sp: bottom,
            frame: word(),
            link: word(),
        };
        let mut read = |address: u64| {
            let offset = usize::try_from(address.wrapping_sub(bottom)).map_err(drop)?;
            stack.get(offset / 8).copied().ok_or(())
        };
        let start = arch::registers(registers);
        let walk = walker.walk(registers.pc, start, true, &modules, &mut read);
        assert!(walk.addresses.len() <= FRAMES);
        let here = (&raw const stack[0]).addr() as u64;
        let mut window = Window::new(&memory, here);
        let stack = walker.walk_from(registers.pc, here, &mut window, &modules);
        assert!(stack.addresses.len() <= FRAMES);
    }
}
