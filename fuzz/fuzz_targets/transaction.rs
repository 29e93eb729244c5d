#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oncecast_fuzz::decoders::transaction(bytes);
});
