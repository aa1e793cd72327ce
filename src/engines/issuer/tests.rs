//! The verifier on ring agrees with the examples of the standards.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as URL};
use jsonwebtoken::{Algorithm, DecodingKey, crypto::verify};

use super::ring_provider;

/// RFC 7515, A.2: RS256.
const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
/// RFC 8037, A.4: Ed25519.
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

fn verified(token: &str, key: &DecodingKey, algorithm: Algorithm) -> bool {
    ring_provider::install();
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)
}

#[test]
fn the_examples_of_the_standards_verify_and_changed_ones_do_not() {
    let rsa = DecodingKey::from_rsa_components(N, "AQAB").expect("a key");
    let ed = DecodingKey::from_ed_components(X).expect("a key");
    for (token, key, algorithm) in [
        (RS256, &rsa, Algorithm::RS256),
        (EDDSA, &ed, Algorithm::EdDSA),
    ] {
        assert!(verified(token, key, algorithm), "{algorithm:?}");
        let (message, signature) = token.rsplit_once('.').expect("three parts");
        let mut bytes = URL.decode(signature).expect("base64");
        bytes[10] ^= 1;
        assert!(!verified(
            &format!("{message}.{}", URL.encode(bytes)),
            key,
            algorithm
        ));
        assert!(!verified(
            &format!("{message}A.{signature}"),
            key,
            algorithm
        ));
    }
}

#[test]
fn a_key_of_one_kind_is_none_of_another_and_a_shared_secret_is_none_at_all() {
    let rsa = DecodingKey::from_rsa_components(N, "AQAB").expect("a key");
    let ed = DecodingKey::from_ed_components(X).expect("a key");
    assert!(!verified(RS256, &ed, Algorithm::RS256));
    assert!(!verified(RS256, &rsa, Algorithm::PS256));
    assert!(!verified(EDDSA, &rsa, Algorithm::EdDSA));
    let secret = DecodingKey::from_secret(b"secret");
    assert!(!verified(RS256, &secret, Algorithm::HS256));
}
