//! Forms that several pages share.

pub(crate) mod kinds;
pub(crate) mod permissions;
