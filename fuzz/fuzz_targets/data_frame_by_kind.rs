#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oncecast_fuzz::decoders::data_frame_by_kind(bytes);
});
