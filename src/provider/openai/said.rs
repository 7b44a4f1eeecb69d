//! How the words so far are known again without being kept: some upstreams say all of them once more.

/// The words so far, by their length and their FNV-1a digest
/// (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>), which no upstream gains anything by forging.
pub struct Said {
    length: usize,
    digest: u64,
}

/// From how many bytes on a text that begins like all words so far is taken for them and more.
const LIKELY: usize = 4;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

impl Default for Said {
    fn default() -> Self {
        Said { length: 0, digest: OFFSET }
    }
}

impl Said {
    /// How many bytes they are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Takes more words in. Blanks before the first one are told in one place and not in another.
    pub fn add(&mut self, words: &str) {
        let words = if self.length == 0 { words.trim_start() } else { words };
        self.length += words.len();
        self.digest = digest(self.digest, words);
    }

    /// What a text adds to the words so far, if it begins with them. Few words may be the beginning of others
    /// by chance, unless it is known that the text is a `whole` one.
    pub fn news<'a>(&self, text: &'a str, whole: bool) -> Option<&'a str> {
        let (before, news) = text.trim_start().split_at_checked(self.length)?;
        let is_likely = whole || self.length >= LIKELY && !news.is_empty();
        (self.length > 0 && is_likely && digest(OFFSET, before) == self.digest).then_some(news)
    }
}

fn digest(begun: u64, words: &str) -> u64 {
    words.bytes().fold(begun, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_the_words_so_far_adds_the_rest_alone() {
        let mut said = Said::default();
        assert_eq!(said.news("Hello", true), None);
        said.add("Hel");
        said.add("lo 你");
        assert_eq!(said.news("Hello 你好", false), Some("好"));
        assert_eq!((said.news("Hello 你", true), said.news("Hello 你", false)), (Some(""), None));
        for text in ["", "Hello", "Hello 世好", "Jello 你好"] {
            assert_eq!(said.news(text, true), None, "{text}");
        }
    }
}
