//! How far the arguments of a tool call are written, by the brackets of their JSON: a call that is whole
//! can go on. Whether it is good JSON is its reader's affair.

/// How far they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Written {
    #[default]
    Nothing,
    Open {
        depth: usize,
        in_text: bool,
        escaped: bool,
    },
    Whole,
}

impl Written {
    /// Goes on with them.
    pub fn add(&mut self, arguments: &str) {
        for byte in arguments.bytes() {
            *self = self.after(byte);
        }
    }

    fn after(self, byte: u8) -> Self {
        let (depth, in_text, escaped) = match self {
            Written::Nothing | Written::Whole if byte.is_ascii_whitespace() => return self,
            Written::Nothing => (0, false, false),
            // What follows the end was none: nothing is known any more.
            Written::Whole => return Written::Open { depth: usize::MAX, in_text: false, escaped: false },
            Written::Open { depth: usize::MAX, .. } => return self,
            Written::Open { depth, in_text, escaped } => (depth, in_text, escaped),
        };
        match byte {
            _ if escaped => Written::Open { depth, in_text, escaped: false },
            b'\\' if in_text => Written::Open { depth, in_text, escaped: true },
            b'"' => Written::Open { depth, in_text: !in_text, escaped },
            _ if in_text => Written::Open { depth, in_text, escaped },
            b'{' | b'[' => Written::Open { depth: depth + 1, in_text, escaped },
            b'}' | b']' if depth == 1 => Written::Whole,
            b'}' | b']' => Written::Open { depth: depth.saturating_sub(1), in_text, escaped },
            _ => Written::Open { depth, in_text, escaped },
        }
    }
}
