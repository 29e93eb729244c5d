#![no_main]

use frame::subtree::Form;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oncecast_fuzz::decoders::subtree(Form::FullNodes, bytes);
});
