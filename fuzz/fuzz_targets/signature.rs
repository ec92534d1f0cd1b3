//! See `checks::signature`.

#![no_main]

#[path = "../checks.rs"]
mod checks;

type Input<'a> = (&'a [u8], Option<&'a [u8]>, Option<&'a [u8]>, Option<&'a [u8]>);

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let (body, sha256, sha1, content_type) = input;
    checks::signature(body, sha256, sha1, content_type);
});
