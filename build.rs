//! Present so that the protoc crates are build dependencies and cargo fetches them first.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
