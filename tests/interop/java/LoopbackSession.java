import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MessageSessionFactory;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.exception.MetaClientException;
import com.taobao.metamorphosis.network.RemotingUtils;
import com.taobao.metamorphosis.utils.ZkUtils;
import java.util.Scanner;

/**
 * Says what the client takes for this machine's address; then, when it has read ZooKeeper's address and the
 * root node, whether it can send with that address rewritten to localhost.
 */
public final class LoopbackSession {
    private LoopbackSession() {
    }

    public static void main(final String[] arguments) throws Exception {
        System.setProperty("metaq.client.loopback.connection.enable", "true");
        System.out.println("> " + RemotingUtils.getLocalHost());
        final String[] words = new Scanner(System.in).nextLine().split(" ");
        final MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(new ZkUtils.ZKConfig(words[1], words[0], 3000, 30000, 500, true));
        final MessageSessionFactory factory = new MetaMessageSessionFactory(config);
        try {
            final MessageProducer producer = factory.createProducer();
            producer.publish("test");
            System.out.println("> " + producer.sendMessage(new Message("test", new byte[] {1})).isSuccess());
        } catch (final MetaClientException error) {
            System.out.println("> " + error.getCause());
        }
        System.out.println("> end");
        System.exit(0);
    }
}
