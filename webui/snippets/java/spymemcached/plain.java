import java.net.InetSocketAddress;
import java.util.List;
import net.spy.memcached.ConnectionFactoryBuilder;
import net.spy.memcached.ConnectionFactoryBuilder.Protocol;
import net.spy.memcached.MemcachedClient;
import net.spy.memcached.auth.AuthDescriptor;
import net.spy.memcached.auth.PlainCallbackHandler;

public class Hello {
    public static void main(String[] args) throws Exception {
        var login = new AuthDescriptor(
            new String[] {"PLAIN"}, new PlainCallbackHandler("@USERNAME@", "@PASSWORD@"));
        var options = new ConnectionFactoryBuilder()
            .setProtocol(Protocol.BINARY)
            .setAuthDescriptor(login)
            .build();
        var cache = new MemcachedClient(options, List.of(new InetSocketAddress("@HOST@", @PORT@)));

        cache.set("hello", 60, "world").get();
        System.out.println(cache.get("hello"));
        cache.shutdown();
    }
}
