use super::{FRAMES, Registers, Walker, Window, arch};
use crate::stacks::reader::memory::Memory;
use crate::stacks::reader::modules::Modules;

/// The memory of a thread that runs on while it is read may hold anything; unwinding it must end,
/// and not panic.
#[test]
fn unwinding_random_memory_ends() {
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
