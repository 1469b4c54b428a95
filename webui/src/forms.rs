//! Forms that several pages share.

pub(crate) mod permissions;
