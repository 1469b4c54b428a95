using System.Net.Security;
using System.Security.Cryptography.X509Certificates;
using Enyim.Caching;
using Microsoft.Extensions.DependencyInjection;

var trust = new X509ChainPolicy
{
    TrustMode = X509ChainTrustMode.CustomRootTrust,
    RevocationMode = X509RevocationMode.NoCheck,
};
trust.CustomTrustStore.ImportFromPemFile("@CA_FILE@");

var services = new ServiceCollection();
services.AddLogging();
services.AddEnyimMemcached(options =>
{
    options.AddServer("@HOST@", @PORT@);
    options.AddPlainTextAuthenticator("", "@USERNAME@", "@PASSWORD@");
    options.UseSslStream = true;
    options.SslClientAuth = new SslClientAuthenticationOptions
    {
        TargetHost = "@HOST@",
        CertificateChainPolicy = trust,
    };
});
var cache = services.BuildServiceProvider().GetRequiredService<IMemcachedClient>();

await cache.SetAsync("hello", "world", 60);
Console.WriteLine(await cache.GetValueAsync<string>("hello"));
