// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every decoder against what fuzzing found, against damaged samples, and against nonsense.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use potluck_tests::decoders::{DECODERS, decoder};
use potluck_tests::program::repository;
use potluck_tests::samples::samples;
use proptest::prelude::*;

fn corpus(name: &str) -> PathBuf {
    repository().join("tests/fuzz/corpus").join(name)
}

fn names(folder: &str, suffix: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(repository().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned())).collect()
}

#[test]
fn what_fuzzing_found_is_handled() {
    for (name, decode) in DECODERS {
        let files: Vec<_> = fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has an empty corpus");
        files.iter().for_each(|file| decode(&fs::read(file).unwrap()));
    }
}

#[test]
fn every_decoder_has_samples_a_corpus_and_a_fuzz_target() {
    let decoders: BTreeSet<String> = DECODERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(decoders.len(), DECODERS.len(), "two decoders of one name");
    assert_eq!(samples().into_iter().map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>(), decoders);
    assert_eq!(names("tests/fuzz/corpus", ""), decoders);
    assert_eq!(names("tests/fuzz/targets", ".rs"), decoders);
}

/// Fuzzing starts from the samples: `POTLUCK_BLESS=1` writes them into the corpus.
#[test]
fn the_corpus_holds_the_samples() {
    for (at, (name, sample)) in samples().iter().enumerate() {
        let file = corpus(name).join(format!("sample-{at:02}"));
        if std::env::var_os("POTLUCK_BLESS").is_some() {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&file, sample).unwrap();
        }
        assert_eq!(&fs::read(&file).unwrap(), sample, "{}: run with POTLUCK_BLESS=1", file.display());
    }
}

#[test]
fn damaged_samples_are_handled() {
    for (name, sample) in samples() {
        let decode = decoder(name);
        decode(&sample);
        for at in 0..sample.len() {
            decode(&sample[..at]);
            for flip in [0x01, 0x20, 0x80] {
                let mut bad = sample.clone();
                bad[at] ^= flip;
                decode(&bad);
            }
            let mut long = sample.clone();
            long.insert(at, sample[at]);
            decode(&long);
        }
    }
}

#[test]
fn depth_and_declared_lengths_cost_nothing() {
    // Heads of arrays, maps, byte strings and text that promise 2^63 items, alone and nested, and plain depth.
    let mut nonsense: Vec<Vec<u8>> = vec![vec![0x81; 100_000], vec![0xa1; 100_000], vec![0xd2; 100_000]];
    for major in [0x40, 0x60, 0x80, 0xa0] {
        let promise = [&[major | 0x1b][..], &(1_u64 << 63).to_be_bytes()].concat();
        nonsense.push(promise.clone());
        nonsense.push([&[0xa1, 0x01][..], &promise].concat());
        nonsense.push([&[0x82, 0x00, 0xa1, 0x02][..], &promise].concat());
        nonsense.push([&[0xd2, 0x84][..], &promise].concat());
    }
    for (_, decode) in DECODERS {
        nonsense.iter().for_each(|bytes| decode(bytes));
    }
}

#[test]
fn deep_text_costs_nothing() {
    let deep = |part: &str| part.repeat(100_000);
    for text in [
        deep("["),
        deep("{"),
        deep("/"),
        deep("a/"),
        deep("*"),
        format!("x = {}", deep("[")),
        format!("x = {}", deep("{a=")),
        format!("x = {}1{}", deep("["), deep("]")),
        format!("x = {}1{}", deep("{a="), deep("}")),
        format!("{}a = 1", deep("a.")),
        format!("[{}a]", deep("a.")),
        format!("[[{}a]]", deep("a.")),
        format!("[signer]\nx = {{{}a = 1}}", deep("a.")),
        format!("[[rule]]\nproject{}.a = 1", deep(".a")),
        format!("[[rule]]\ntaints{}.a = 1", deep(".a")),
        format!("ssh-ed25519 {}", deep("AAAA")),
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}", deep("AAAA")),
    ] {
        for (_, decode) in DECODERS {
            decode(text.as_bytes());
        }
    }
}

proptest! {
    #[test]
    fn nonsense_is_handled(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        DECODERS.iter().for_each(|(_, decode)| decode(&bytes));
    }

    #[test]
    fn spliced_samples_are_handled(one: prop::sample::Index, other: prop::sample::Index, cut: prop::sample::Index) {
        let samples = samples();
        let (name, sample) = one.get(&samples);
        let (_, donor) = other.get(&samples);
        let at = cut.index(sample.len() + 1);
        let spliced = [&sample[..at], &donor[at.min(donor.len())..]].concat();
        decoder(name)(&spliced);
    }
}
