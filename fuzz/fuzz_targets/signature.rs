//! Whoever can reach the webhook server chooses these bytes: headers and body of a delivery before anything is known of its sender.
//! Nothing may panic; what was signed with the secret is accepted, and nothing else is.

#![no_main]

use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::fuzz_target;
use muster_github::signature::{SignatureHeaders, payload, verify};
use sha2::Sha256;

const SECRET: &[u8] = b"a webhook secret";

fuzz_target!(|input: (&[u8], Option<&[u8]>, Option<&[u8]>, Option<&[u8]>)| {
    let (body, sha256, sha1, content_type) = input;
    let headers = SignatureHeaders { sha256, sha1 };
    // Nobody finds a valid signature by trying.
    assert!(verify(SECRET, headers, body).is_err());

    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(SECRET).expect("any length is a key");
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let signature = format!("sha256={hex}");
    let signed = SignatureHeaders { sha256: Some(signature.as_bytes()), sha1 };
    assert_eq!(verify(SECRET, signed, body), Ok(()));

    // A form's field is never longer than the form.
    if let Ok(json) = payload(content_type, body) {
        assert!(json.len() <= body.len());
    }
});
