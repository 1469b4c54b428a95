fn main() -> Result<(), memcache::MemcacheError> {
    let cache = memcache::connect("memcache://@USERNAME@:@PASSWORD@@@ENDPOINT@?protocol=ascii")?;

    cache.set("hello", "world", 60)?;
    println!("{}", cache.get::<String>("hello")?.unwrap_or_default());
    Ok(())
}
