//! A new migration must reach the binary: `sqlx::migrate!` alone doesn't notice one.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
