//! What the host will need next, made by a thread of its own while a GPU works.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Items in their order, of which the next ones are made before they are asked for.
pub struct Ahead<T>(Receiver<T>);

impl<T: Send + 'static> Ahead<T> {
    /// All that `make` gives, call by call.
    pub fn new(mut make: impl FnMut() -> T + Send + 'static) -> Ahead<T> {
        let (to, from) = sync_channel(1);
        // It ends when nobody is there to take one more.
        thread::spawn(move || while to.send(make()).is_ok() {});
        Ahead(from)
    }

    /// The next one.
    ///
    /// # Panics
    /// If making it did.
    pub fn take(&mut self) -> T {
        self.0.recv().expect("a thread that makes items")
    }
}
