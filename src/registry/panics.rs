//! Where a panic happened: the payload does not say, only the panic hook sees it. And who else hears of one, before the
//! process may end.

#[cfg(feature = "json")]
mod listeners;

#[cfg(feature = "json")]
pub(crate) use listeners::{Listener, listen};

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Puts a hook before the process's own, once. It only notes the panic.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            LOCATION
                .try_with(|cell| cell.try_borrow_mut().map(|mut cell| *cell = location))
                .ok();
            #[cfg(feature = "json")]
            listeners::tell(info);
            next(info);
        }));
    });
}

/// Where this thread panicked last.
pub(crate) fn take_location() -> Option<String> {
    LOCATION
        .try_with(|cell| cell.try_borrow_mut().ok()?.take())
        .ok()
        .flatten()
}
