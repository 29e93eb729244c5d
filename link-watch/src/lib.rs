#![doc = include_str!("../README.md")]

pub mod joined;
pub mod judge;
pub mod table;
pub mod watch;

pub use judge::{Family, Need, Standing};
pub use table::{Address, AddressState, Event, Link, Links};
pub use watch::Watch;
