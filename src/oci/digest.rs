//! Digests, and the verification of content by its digest.
//!
//! Source: OCI image specification v1.1, "Digests". sha256 and sha512 are the registered algorithms that registries
//! use. forebay refuses any other algorithm, since it could not verify the content.

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest as _, Sha256, Sha512};

use super::ParseError;

/// A hash algorithm by which forebay can verify content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest of this algorithm has.
    const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// `algorithm:hex`, in lower case, of the right length.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The whole text, `sha256:…`.
    text: Arc<str>,
}

impl Digest {
    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut verifier = Verifier::new(algorithm);
        verifier.update(content);
        verifier.digest()
    }

    /// The digest whose hash these bytes are.
    pub fn from_sha256(hash: &[u8; 32]) -> Self {
        let algorithm = Algorithm::Sha256;
        Digest { algorithm, text: format!("{}:{}", algorithm.as_str(), hex::encode(hash)).into() }
    }

    /// The hash itself; `None` unless the digest is a sha256.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        if self.algorithm == Algorithm::Sha256 { sha256_of_hex(self.hex()) } else { None }
    }

    /// The first eight bytes of the hash: they tell digests apart where a mistake costs little.
    pub fn front(&self) -> u64 {
        self.hex().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hexadecimal part.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }
}

/// The hash that 64 hexadecimal digits in lower case represent.
pub fn sha256_of_hex(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let lower = !hex.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && hex::decode_to_slice(hex, &mut hash).is_ok()).then_some(hash)
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (algorithm, hex) = text.split_once(':').ok_or(ParseError::Digest("must be algorithm:hex"))?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|known| known.as_str() == algorithm)
            .ok_or(ParseError::Digest("the algorithm must be sha256 or sha512"))?;
        if hex.len() != algorithm.hex_len() {
            return Err(ParseError::Digest("the hexadecimal part has the wrong length for its algorithm"));
        }
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseError::Digest("the hexadecimal part must be of 0-9 and a-f"));
        }
        Ok(Self { algorithm, text: text.into() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Hashes content piece by piece.
#[derive(Clone)]
pub struct Verifier(Hasher);

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Verifier {
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all content so far.
    pub fn digest(self) -> Digest {
        let (algorithm, hex) = match self.0 {
            Hasher::Sha256(hasher) => (Algorithm::Sha256, hex::encode(hasher.finalize())),
            Hasher::Sha512(hasher) => (Algorithm::Sha512, hex::encode(hasher.finalize())),
        };
        Digest { algorithm, text: format!("{}:{hex}", algorithm.as_str()).into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of the empty string. Source: FIPS 180-4 examples.
    const EMPTY_256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn known_digests() {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").as_str(), EMPTY_256);
        assert_eq!(Digest::of(Algorithm::Sha512, b"").as_str(), EMPTY_512);
        assert_eq!(
            Digest::of(Algorithm::Sha256, b"abc").hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn good_digests_print_as_they_were_read() {
        for (text, algorithm) in [(EMPTY_256, Algorithm::Sha256), (EMPTY_512, Algorithm::Sha512)] {
            let digest: Digest = text.parse().unwrap();
            assert_eq!((digest.algorithm(), digest.to_string().as_str()), (algorithm, text));
            assert_eq!(format!("{digest:?}"), text);
            assert_eq!(text, format!("{}:{}", algorithm.as_str(), digest.hex()));
            assert!(digest.hex().starts_with(&format!("{:016x}", digest.front())));
        }
    }

    #[test]
    fn bad_digests_are_refused() {
        let hex = &EMPTY_256["sha256:".len()..];
        for bad in [
            "",
            ":",
            "sha256",
            "sha256:",
            hex,
            &format!(":{hex}"),
            &format!("SHA256:{hex}"),
            &format!("sha512:{hex}"),
            &format!("sha384:{hex}"),
            &format!("sha256+b64:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha256:{}/", &hex[1..]),
            &format!("sha256:{}é", &hex[2..]),
            &format!(" {EMPTY_256}"),
            &format!("{EMPTY_256}\n"),
            "md5:d41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert!(matches!(bad.parse::<Digest>(), Err(ParseError::Digest(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn hashing_in_parts_is_hashing_the_whole(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
            for algorithm in Algorithm::ALL {
                let mut verifier = Verifier::new(algorithm);
                parts.iter().for_each(|part| verifier.update(part));
                let digest = verifier.digest();
                prop_assert_eq!(&digest, &Digest::of(algorithm, &parts.concat()));
                prop_assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
            }
        }

        #[test]
        fn only_lower_case_hexadecimal_of_the_right_length(text in "(sha256|sha512|sha1|md5)?:?[0-9a-fA-Fg]{60,68}") {
            let good = text.strip_prefix("sha256:").is_some_and(|hex| {
                hex.len() == 64 && hex.chars().all(|digit| digit.is_ascii_hexdigit() && !digit.is_uppercase())
            });
            prop_assert_eq!(text.parse::<Digest>().is_ok(), good);
        }
    }
}
