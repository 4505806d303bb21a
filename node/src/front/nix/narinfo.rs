// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Nix says of a path in a store: the text of a `.narinfo`. Pure.
//!
//! Lines that are not understood are kept, in their order, and those that are have one form; so what was put comes back
//! as it was.

use potluck_keys::nix::Sig;
use potluck_protocol::digest::Sha256;

/// Largest narinfo in bytes. Most have less than one KiB; each reference takes some fifty bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// Most signatures on one.
pub const MAX_SIGS: usize = 64;
/// Letters of the hash that a path in a store begins with.
pub const HASH_LETTERS: usize = 32;
/// Letters of a SHA-256.
const SHA256_LETTERS: usize = 52;

/// The letters of Nix' base 32.
const LETTERS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Whether a text is made of those letters.
pub fn is_base32(text: &str) -> bool {
    text.bytes().all(|byte| LETTERS.contains(&byte))
}

/// A SHA-256 as Nix writes it: five bits a letter, the last ones first.
pub fn base32(hash: &Sha256) -> String {
    let bytes = hash.as_bytes();
    let letter = |nth: usize| {
        let (at, shift) = (nth * 5 / 8, nth * 5 % 8);
        let high = bytes.get(at + 1).map_or(0, |next| u16::from(*next) << 8);
        let five = ((u16::from(bytes[at]) | high) >> shift) & 0x1f;
        char::from(LETTERS[usize::from(five)])
    };
    (0..SHA256_LETTERS).rev().map(letter).collect()
}

/// Reads what [`base32`] writes.
pub fn from_base32(text: &str) -> Option<Sha256> {
    if text.len() != SHA256_LETTERS {
        return None;
    }
    let mut bytes = [0_u8; 33];
    for (nth, letter) in text.bytes().rev().enumerate() {
        let five = LETTERS.iter().position(|known| *known == letter)?;
        let bits = u16::try_from(five).ok()? << (nth * 5 % 8);
        let [low, high] = bits.to_le_bytes();
        bytes[nth * 5 / 8] |= low;
        bytes[nth * 5 / 8 + 1] |= high;
    }
    // Four bits of the first letter have no place.
    (bytes[32] == 0).then(|| Sha256::from_bytes(bytes[..32].try_into().expect("it has 33")))
}

/// `sha256:` and the hash, in base 32 or in hexadecimal digits.
fn hash(text: &str) -> Option<Sha256> {
    let text = text.strip_prefix("sha256:")?;
    from_base32(text).or_else(|| text.parse().ok())
}

/// What is known of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    lines: Vec<(String, String)>,
    /// Where it lies in a store.
    pub store_path: String,
    /// How its archive is packed; empty when that was not said, which means bzip2.
    pub compression: String,
    /// The SHA-256 of the packed archive.
    pub file_hash: Option<Sha256>,
    /// The size of the packed archive, in bytes.
    pub file_size: Option<u64>,
    /// The SHA-256 of the archive.
    pub nar_hash: Sha256,
    /// The size of the archive, in bytes.
    pub nar_size: u64,
}

/// Why a text is no narinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarInfoError {
    /// It is too long.
    #[error("it is too long")]
    TooLong,
    /// A line has another form.
    #[error("a line is not understood")]
    Line,
    /// Something is there more than once, or has another form, or is missing.
    #[error("{0} is missing, there twice, or not understood")]
    Field(&'static str),
    /// There are too many signatures.
    #[error("it has too many signatures")]
    Sigs,
}

impl NarInfo {
    /// Reads one.
    ///
    /// # Errors
    /// [`NarInfoError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NarInfoError> {
        if bytes.len() > MAX_BYTES {
            return Err(NarInfoError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| NarInfoError::Line)?;
        let mut lines = Vec::new();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            let (name, value) = line.split_once(": ").ok_or(NarInfoError::Line)?;
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !plain || value.chars().any(char::is_control) {
                return Err(NarInfoError::Line);
            }
            lines.push((name.to_owned(), value.to_owned()));
        }
        let one = |name: &'static str| -> Result<Option<&str>, NarInfoError> {
            let mut values = lines.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
            let value = values.next();
            if values.next().is_some() { Err(NarInfoError::Field(name)) } else { Ok(value) }
        };
        let must = |name| one(name)?.ok_or(NarInfoError::Field(name));
        let number = |name: &'static str, text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| digits).ok_or(NarInfoError::Field(name))
        };
        must("URL")?;
        let store_path = must("StorePath")?;
        if store_hash(store_path).is_none() {
            return Err(NarInfoError::Field("StorePath"));
        }
        let nar_hash = hash(must("NarHash")?).ok_or(NarInfoError::Field("NarHash"))?;
        let nar_size = number("NarSize", must("NarSize")?)?;
        let file_hash = one("FileHash")?.map(|text| hash(text).ok_or(NarInfoError::Field("FileHash")));
        let file_size = one("FileSize")?.map(|text| number("FileSize", text)).transpose()?;
        let compression = one("Compression")?.unwrap_or_default().to_owned();
        for name in ["References", "Deriver", "System", "CA"] {
            one(name)?;
        }
        if lines.iter().filter(|(name, _)| name == "Sig").count() > MAX_SIGS {
            return Err(NarInfoError::Sigs);
        }
        let (store_path, file_hash) = (store_path.to_owned(), file_hash.transpose()?);
        Ok(Self { store_path, compression, file_hash, file_size, nar_hash, nar_size, lines })
    }

    /// As text.
    pub fn text(&self) -> String {
        self.lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Where its archive is, below the cache.
    pub fn url(&self) -> &str {
        self.one("URL").unwrap_or_default()
    }

    /// The hash that its path begins with.
    pub fn hash(&self) -> &str {
        store_hash(&self.store_path).unwrap_or_default()
    }

    /// What a signature on it signs.
    pub fn fingerprint(&self) -> String {
        let folder = self.store_path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let references = self.one("References").unwrap_or_default();
        let references: Vec<_> = references
            .split(' ')
            .filter(|one| !one.is_empty())
            .map(|one| format!("{folder}/{one}"))
            .collect();
        let hash = base32(&self.nar_hash);
        format!("1;{};sha256:{hash};{};{}", self.store_path, self.nar_size, references.join(","))
    }

    /// Its signatures, as far as they have the form of one.
    pub fn sigs(&self) -> impl Iterator<Item = Sig> {
        self.lines.iter().filter(|(name, _)| name == "Sig").filter_map(|(_, value)| value.parse().ok())
    }

    /// The same with its archive elsewhere.
    #[must_use]
    pub fn at(mut self, url: &str) -> Self {
        for (_, value) in self.lines.iter_mut().filter(|(name, _)| name == "URL") {
            url.clone_into(value);
        }
        self
    }

    /// The same without the signatures that `is_false` says are none. What is no signature at all stays.
    #[must_use]
    pub fn without(mut self, is_false: impl Fn(&Sig) -> bool) -> Self {
        self.lines.retain(|(name, value)| name != "Sig" || !value.parse().is_ok_and(|sig| is_false(&sig)));
        self
    }

    /// The same with further signatures, as far as there is room; those that it has are not added again.
    #[must_use]
    pub fn with(mut self, sigs: impl IntoIterator<Item = Sig>) -> Self {
        for sig in sigs {
            let line = ("Sig".to_owned(), sig.to_string());
            if !self.lines.contains(&line) && self.sigs().count() < MAX_SIGS {
                self.lines.push(line);
            }
        }
        self
    }

    /// Whether both say the same of one path, so that signatures on one hold for the other.
    pub fn agrees(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint() && self.one("CA") == other.one("CA")
    }
}

/// The hash that a path in a store begins with.
fn store_hash(path: &str) -> Option<&str> {
    let (folder, name) = path.rsplit_once('/')?;
    let hash = name.get(..HASH_LETTERS)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    let folders = folder.strip_prefix('/')?;
    let sound = folders.split('/').all(|folder| !matches!(folder, "" | "." | ".."))
        && is_base32(hash)
        && name[HASH_LETTERS..].starts_with('-')
        && name.len() > HASH_LETTERS + 1
        && name.bytes().all(plain);
    sound.then_some(hash)
}

#[cfg(test)]
mod tests {
    use potluck_keys::nix::public_key;
    use potluck_keys::pair::Pair;

    use super::*;

    const DISH: &str = include_str!("samples/dish.narinfo");
    /// The key by which it is signed.
    const KEY: &str = "test-1:fNWGoRekojRuJcHe/ITaJuvnU7NAx8uneK9a/6uggFc=";

    #[test]
    fn what_nix_wrote_is_understood_and_comes_back() {
        let info = NarInfo::parse(DISH.as_bytes()).unwrap();
        assert_eq!(info.text(), DISH);
        assert_eq!(info.hash(), "3imvddpkp3np5kpfzyjqbk23lz2cs6l9");
        assert_eq!(info.url(), "nar/1kp5xrp4d3xkwzzv7302rvbmjhmdwadszn131qrcf9gx1qwch1qd.nar.xz");
        assert_eq!(info.file_hash.map(|hash| base32(&hash)).as_deref(), info.url().get(4..56));
        assert_eq!((info.file_size, info.nar_size, info.compression.as_str()), (Some(128), 120, "xz"));
        let (name, key) = public_key(KEY).unwrap();
        let sigs: Vec<_> = info.sigs().collect();
        assert!(sigs.len() == 1 && sigs[0].name() == name && sigs[0].is_of(&key, &info.fingerprint()));
    }

    #[test]
    fn signatures_are_added_and_false_ones_taken_away() {
        let info = NarInfo::parse(DISH.as_bytes()).unwrap();
        let pair = Pair::from_seed(&[1; 32], "");
        let own = Sig::sign(&pair, &info.fingerprint());
        let both = info.clone().with([own.clone(), own.clone()]);
        assert_eq!(both.text(), format!("{DISH}Sig: {own}\n"));
        assert_eq!(both.clone().without(|sig| *sig == own), info);
        assert!(both.agrees(&info) && NarInfo::parse(both.text().as_bytes()).unwrap() == both);
        let many = (0..=255).map(|n| Sig::sign(&Pair::from_seed(&[n; 32], ""), "x"));
        assert_eq!(info.clone().with(many).sigs().count(), MAX_SIGS);
        let other = DISH.replace("References: ", "References: 9q2qilwsqww1b0qlnpvc0pwbsji3r91j-dish");
        let other = NarInfo::parse(other.as_bytes()).unwrap();
        assert!(!other.agrees(&info));
        assert!(other.fingerprint().ends_with(";120;/nix/store/9q2qilwsqww1b0qlnpvc0pwbsji3r91j-dish"));
        assert_eq!(info.clone().at("nar/x").at(info.url()), info);
    }

    #[test]
    fn what_is_none_is_refused() {
        let refused = |from: &str, to: &str| {
            let text = DISH.replace(from, to);
            assert!(text != DISH && NarInfo::parse(text.as_bytes()).is_err(), "{from} -> {to}");
        };
        refused("StorePath: ", "Path: ");
        refused("/nix/store/3im", "/nix/store/../3im");
        refused("/nix/store/3im", "3im");
        refused("3imvddpkp3np5kpfzyjqbk23lz2cs6l9-dish\nURL", "3imvddpkp3np5kpfzyjqbk23lz2cs6l9\nURL");
        refused("NarSize: 120", "NarSize: -120");
        refused("NarSize: 120", "NarSize: 120\nNarSize: 120");
        refused("NarHash: sha256:1f", "NarHash: md5:1f");
        refused("FileHash: sha256:1k", "FileHash: sha256:k");
        refused("Compression: xz", "Compression");
        refused("Compression: xz", "Compression: x\u{1}z");
        refused("Deriver: ", "Deriver: a\nDeriver: ");
        refused("URL: ", "\nURL: ");
        let sig = DISH.lines().last().unwrap();
        refused(sig, &[sig; MAX_SIGS + 1].join("\n"));
        let long = format!("{DISH}More: {}\n", "x".repeat(MAX_BYTES));
        assert_eq!(NarInfo::parse(long.as_bytes()), Err(NarInfoError::TooLong));
        assert!(NarInfo::parse(&[0xff]).is_err() && NarInfo::parse(b"").is_err());
    }

    #[test]
    fn hashes_have_one_form_in_base_32() {
        let empty: Sha256 =
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(base32(&empty), text);
        assert_eq!(from_base32(text), Some(empty));
        assert_eq!(hash(&format!("sha256:{empty}")), Some(empty));
        for wrong in ["", &text[1..], &text.replace('0', "e"), &text.replacen('0', "z", 1)] {
            assert_eq!(from_base32(wrong), None, "{wrong}");
        }
        for n in 0..=255 {
            let hash = Sha256::from_bytes([n; 32]);
            assert_eq!(from_base32(&base32(&hash)), Some(hash));
        }
    }
}
