import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Arrays;
import net.spy.memcached.ConnectionFactoryBuilder;
import net.spy.memcached.ConnectionFactoryBuilder.Protocol;
import net.spy.memcached.MemcachedClient;
import net.spy.memcached.auth.AuthDescriptor;
import net.spy.memcached.auth.PlainCallbackHandler;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

@Configuration
public class MemgateConfiguration {
    @Bean(destroyMethod = "shutdown")
    public MemcachedClient memcachedClient() throws IOException {
        AuthDescriptor login = new AuthDescriptor(
            new String[] {"PLAIN"}, new PlainCallbackHandler("@USERNAME@", "@PASSWORD@"));
        return new MemcachedClient(
            new ConnectionFactoryBuilder()
                .setProtocol(Protocol.BINARY)
                .setAuthDescriptor(login)
                .build(),
            Arrays.asList(new InetSocketAddress("@HOST@", @PORT@)));
    }
}
