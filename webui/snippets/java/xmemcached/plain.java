import java.net.InetSocketAddress;
import java.util.List;
import net.rubyeye.xmemcached.MemcachedClient;
import net.rubyeye.xmemcached.XMemcachedClientBuilder;
import net.rubyeye.xmemcached.auth.AuthInfo;
import net.rubyeye.xmemcached.command.BinaryCommandFactory;

public class Hello {
    public static void main(String[] args) throws Exception {
        var address = new InetSocketAddress("@HOST@", @PORT@);
        var builder = new XMemcachedClientBuilder(List.of(address));
        builder.setCommandFactory(new BinaryCommandFactory());
        builder.addAuthInfo(address, AuthInfo.plain("@USERNAME@", "@PASSWORD@"));
        MemcachedClient cache = builder.build();

        cache.set("hello", 60, "world");
        String value = cache.get("hello");
        System.out.println(value);
        cache.shutdown();
    }
}
