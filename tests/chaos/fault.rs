//! What goes wrong between forebay and an upstream.

use crate::dice::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection is reset before the request is read.
    Refuse,
    /// The connection is reset in place of an answer.
    ResetAtHead,
    ResetAtFirstByte,
    ResetInTheMiddle,
    ResetAtLastByte,
    /// A clean end of the connection in the middle of a body.
    EndInTheMiddle,
    /// Half of the body, then a pause, then the rest.
    Pause,
    /// Half of the body, then nothing any more.
    Hang,
    /// Nothing at all, not even a head.
    Silence,
    /// One byte a second.
    Trickle,
    ServerError(u16),
    TooManyRequests,
    WrongByte,
    LengthTooLarge,
    LengthTooSmall,
    Html,
    /// To a signed URL that works once.
    Redirect,
    /// To a signed URL that has expired.
    ExpiredRedirect,
    /// The token is not good any more.
    DeadToken,
    /// The first half of the body, and then the token is dead.
    ResetAndDeadToken,
    /// A Range is not answered as one.
    RangeRefused(u16),
    /// 206 without Content-Range.
    RangeUntold,
    /// The whole in place of the part.
    RangeIgnored,
}

/// What a request is about, as far as it matters for what may go wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// GET of a blob, whole.
    Whole,
    /// GET of a part of a blob.
    Part,
    /// Manifests, lists, HEADs, pings.
    Other,
    /// What changes something.
    Change,
}

const ANY: [Fault; 8] = [
    Fault::Refuse,
    Fault::ResetAtHead,
    Fault::Silence,
    Fault::ServerError(500),
    Fault::ServerError(503),
    Fault::TooManyRequests,
    Fault::Html,
    Fault::DeadToken,
];

const BODY: [Fault; 14] = [
    Fault::ResetAtFirstByte,
    Fault::ResetInTheMiddle,
    Fault::ResetInTheMiddle,
    Fault::ResetAtLastByte,
    Fault::EndInTheMiddle,
    Fault::Pause,
    Fault::Hang,
    Fault::Trickle,
    Fault::WrongByte,
    Fault::LengthTooLarge,
    Fault::LengthTooSmall,
    Fault::Redirect,
    Fault::ExpiredRedirect,
    Fault::ResetAndDeadToken,
];

const RANGE: [Fault; 7] = [
    Fault::RangeRefused(400),
    Fault::RangeRefused(403),
    Fault::RangeRefused(405),
    Fault::RangeRefused(416),
    Fault::RangeRefused(501),
    Fault::RangeUntold,
    Fault::RangeIgnored,
];

/// A change is either made or not: what its answer says must be true.
const CHANGE: [Fault; 4] = [Fault::Refuse, Fault::ServerError(503), Fault::TooManyRequests, Fault::ResetAtHead];

impl Fault {
    /// What goes wrong with a request, if anything does.
    pub fn choose(dice: &mut Dice, kind: Kind, percent: u64) -> Option<Fault> {
        if !dice.percent(percent) {
            return None;
        }
        Some(match kind {
            Kind::Change => *dice.one_of(&CHANGE),
            Kind::Other if dice.percent(70) => *dice.one_of(&ANY),
            Kind::Part if dice.percent(40) => *dice.one_of(&RANGE),
            Kind::Whole | Kind::Part if dice.percent(25) => *dice.one_of(&ANY),
            Kind::Whole | Kind::Part | Kind::Other => *dice.one_of(&BODY),
        })
    }

    /// What the summary calls it.
    pub fn class(self) -> &'static str {
        match self {
            Fault::Refuse => "refused",
            Fault::ResetAtHead => "reset at the head",
            Fault::ResetAtFirstByte => "reset at the first byte",
            Fault::ResetInTheMiddle | Fault::EndInTheMiddle => "cut in the middle",
            Fault::ResetAtLastByte => "reset at the last byte",
            Fault::Pause | Fault::Hang | Fault::Silence => "stall",
            Fault::Trickle => "a byte a second",
            Fault::ServerError(_) => "5xx",
            Fault::TooManyRequests => "429",
            Fault::WrongByte => "wrong bytes",
            Fault::LengthTooLarge | Fault::LengthTooSmall => "wrong length",
            Fault::Html => "HTML",
            Fault::Redirect => "redirect that works once",
            Fault::ExpiredRedirect => "expired redirect",
            Fault::DeadToken | Fault::ResetAndDeadToken => "dead token",
            Fault::RangeRefused(_) | Fault::RangeUntold | Fault::RangeIgnored => "no ranges",
        }
    }

    /// The registry, or the store behind its redirect, refuses the client's request as a whole.
    pub fn refuses(self) -> bool {
        matches!(self, Fault::ExpiredRedirect | Fault::DeadToken)
    }

    /// Bytes that a client gets in part may be wrong after this; no client can tell before it has the whole.
    pub fn lies_about_content(self) -> bool {
        matches!(
            self,
            Fault::WrongByte
                | Fault::Html
                | Fault::LengthTooLarge
                | Fault::LengthTooSmall
                | Fault::RangeUntold
                | Fault::RangeIgnored
        )
    }
}
