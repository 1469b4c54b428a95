using Enyim.Caching;
using Microsoft.Extensions.DependencyInjection;

var services = new ServiceCollection();
services.AddLogging();
services.AddEnyimMemcached(options =>
{
    options.AddServer("@HOST@", @PORT@);
    options.AddPlainTextAuthenticator("", "@USERNAME@", "@PASSWORD@");
});
var cache = services.BuildServiceProvider().GetRequiredService<IMemcachedClient>();

await cache.SetAsync("hello", "world", 60);
Console.WriteLine(await cache.GetValueAsync<string>("hello"));
