fn main() -> Result<(), memcache::MemcacheError> {
    let cache = memcache::connect(
        "memcache+tls://@USERNAME@:@PASSWORD@@@ENDPOINT@?protocol=ascii&ca_path=@CA_FILE@",
    )?;

    cache.set("hello", "world", 60)?;
    println!("{}", cache.get::<String>("hello")?.unwrap_or_default());
    Ok(())
}
