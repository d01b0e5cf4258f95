import com.taobao.gecko.core.command.RequestCommand;
import com.taobao.gecko.core.command.ResponseCommand;
import com.taobao.gecko.service.RemotingClient;
import com.taobao.gecko.service.RemotingFactory;
import com.taobao.gecko.service.config.ClientConfig;
import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MessageSessionFactory;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.TopicBrowser;
import com.taobao.metamorphosis.client.consumer.ConsumerConfig;
import com.taobao.metamorphosis.client.consumer.MessageConsumer;
import com.taobao.metamorphosis.client.consumer.MessageListener;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.client.producer.SendResult;
import com.taobao.metamorphosis.cluster.Partition;
import com.taobao.metamorphosis.network.BooleanCommand;
import com.taobao.metamorphosis.network.DataCommand;
import com.taobao.metamorphosis.network.GetCommand;
import com.taobao.metamorphosis.network.MetamorphosisWireFormatType;
import com.taobao.metamorphosis.network.OffsetCommand;
import com.taobao.metamorphosis.network.PutCommand;
import com.taobao.metamorphosis.network.StatsCommand;
import com.taobao.metamorphosis.network.VersionCommand;
import com.taobao.metamorphosis.utils.CheckSum;
import com.taobao.metamorphosis.utils.ZkUtils;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Iterator;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;
import org.I0Itec.zkclient.ZkClient;

/**
 * A session of the Java client with one broker, printed line by line for a test to compare.
 *
 * <p>Arguments: ZooKeeper's address, the root node, the broker's port, and "register" to stand in for a
 * broker that does not register itself. Message ids are left out: they differ from broker to broker.
 */
public final class ClientSession {
    private static final String TOPIC = "orders";
    private static final int PARTITIONS = 3;
    private static final int MESSAGES = 60;
    private static final long WAIT_SECONDS = 30;
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private ClientSession() {
    }

    public static void main(final String[] arguments) throws Exception {
        final ZkUtils.ZKConfig zk = new ZkUtils.ZKConfig(arguments[1], arguments[0], 30000, 30000, 5000, true);
        final int port = Integer.parseInt(arguments[2]);
        ZkClient registration = null;
        if (arguments.length > 3) {
            registration = register(zk, port);
        }
        frames(port);
        final MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        final MessageSessionFactory factory = new MetaMessageSessionFactory(config);
        try {
            produce(factory);
            consume(factory, zk);
            browse(factory);
            statistics(factory, port);
        } finally {
            factory.shutdown();
        }
        if (registration != null) {
            registration.close();
        }
        say("end");
        System.exit(0);
    }

    /** The nodes that a producer and a consumer look for. */
    static ZkClient register(final ZkUtils.ZKConfig zk, final int port) throws Exception {
        final ZkClient client = new ZkClient(zk.zkConnect, 30000, 30000, new ZkUtils.StringSerializer());
        final String topic = "{\"numParts\":" + PARTITIONS + ",\"broker\":\"0-m\"}";
        ZkUtils.createEphemeralPath(client, zk.zkRoot + "/brokers/ids/0/master", "meta://127.0.0.1:" + port);
        ZkUtils.createEphemeralPath(client, zk.zkRoot + "/brokers/topics-pub/" + TOPIC + "/0-m", topic);
        ZkUtils.createEphemeralPath(client, zk.zkRoot + "/brokers/topics-sub/" + TOPIC + "/0-m", topic);
        return client;
    }

    /** Commands through the client's own network layer: its encoder, its decoder, its heartbeat. */
    private static void frames(final int port) throws Exception {
        final ClientConfig config = new ClientConfig();
        config.setWireFormatType(new MetamorphosisWireFormatType());
        final RemotingClient client = RemotingFactory.connect(config);
        final String url = "meta://127.0.0.1:" + port;
        client.connect(url);
        client.awaitReadyInterrupt(url, TimeUnit.SECONDS.toMillis(WAIT_SECONDS));
        final byte[] hello = "hello".getBytes(StandardCharsets.UTF_8);
        final int crc = CheckSum.crc32(hello);
        int opaque = Integer.MIN_VALUE;
        final RequestCommand[] commands = {
            new PutCommand("frames", 0, hello, 0, crc, null, opaque++),
            new PutCommand("frames", 0, new byte[0], 0, CheckSum.crc32(new byte[0]), null, opaque++),
            new PutCommand("frames", 0, hello, null, -7, opaque++),
            new PutCommand("frames", 0, hello, 0, crc + 1, null, opaque++),
            new PutCommand("frames", 99, hello, 0, crc, null, opaque++),
            new PutCommand("nobody", 0, hello, 0, crc, null, opaque++),
            new GetCommand("frames", "group", 0, 0, 1024, opaque++),
            new GetCommand("frames", "group", 0, 25, 30, opaque++),
            new GetCommand("frames", "group", 0, 70, 1024, opaque++),
            new GetCommand("frames", "group", 0, -1, 1024, opaque++),
            new GetCommand("frames", "group", 0, Long.MAX_VALUE, 1024, opaque++),
            new GetCommand("frames", "group", 0, 0, 0, opaque++),
            new GetCommand("nobody", "group", 0, 0, 1024, opaque++),
            new OffsetCommand("frames", "group", 0, 0, opaque++),
            new OffsetCommand("frames", "group", 0, Long.MAX_VALUE, opaque++),
            new OffsetCommand("nobody", "group", 0, 0, opaque++),
            new StatsCommand(opaque++, "frames"),
            new StatsCommand(opaque++, null),
            new VersionCommand(opaque++),
        };
        for (final RequestCommand command : commands) {
            final ResponseCommand response = client.invokeToGroup(url, command, WAIT_SECONDS, TimeUnit.SECONDS);
            final boolean isHidden = command instanceof VersionCommand || command instanceof StatsCommand;
            say(command.getClass().getSimpleName(), String.valueOf(response.getOpaque()), describe(response, isHidden));
        }
        client.stop();
    }

    private static String describe(final ResponseCommand response, final boolean isHidden) {
        if (response instanceof DataCommand) {
            final byte[] data = ((DataCommand) response).getData();
            return "data " + data.length;
        }
        final BooleanCommand result = (BooleanCommand) response;
        final String text = String.valueOf(result.getErrorMsg());
        return result.getCode() + " " + (isHidden ? text.split("[ \r]")[0].replaceAll("[0-9.]+", "N") : text);
    }

    private static void produce(final MessageSessionFactory factory) throws Exception {
        final MessageProducer producer = factory.createProducer();
        producer.publish(TOPIC);
        final TreeMap<String, Integer> sent = new TreeMap<>();
        for (int number = 0; number < MESSAGES; number++) {
            final SendResult result = producer.sendMessage(message(number), WAIT_SECONDS, TimeUnit.SECONDS);
            final String partition = result.isSuccess() ? result.getPartition().toString() : result.getErrorMessage();
            sent.merge(partition, 1, Integer::sum);
        }
        say("sent", sent.toString());
        producer.shutdown();
    }

    /** Of every size, some with an attribute. */
    private static Message message(final int number) {
        final byte[] body = ("message " + number + " ").repeat(number * number).getBytes(StandardCharsets.UTF_8);
        // The client refuses a message without a body before it asks a broker.
        final byte[] data = body.length == 0 ? new byte[] {0} : body;
        return number % 2 == 0 ? new Message(TOPIC, data) : new Message(TOPIC, data, "attribut\u00e4 " + number);
    }

    private static void consume(final MessageSessionFactory factory, final ZkUtils.ZKConfig zk) throws Exception {
        final ConsumerConfig config = new ConsumerConfig("a-group");
        config.setMaxDelayFetchTimeInMills(100);
        final MessageConsumer consumer = factory.createConsumer(config);
        final ConcurrentSkipListSet<String> received = new ConcurrentSkipListSet<>();
        final CountDownLatch all = new CountDownLatch(MESSAGES);
        consumer.subscribe(TOPIC, 4096, new MessageListener() {
            @Override
            public void recieveMessages(final Message message) {
                if (received.add(describe(message))) {
                    all.countDown();
                }
            }

            @Override
            public Executor getExecutor() {
                return null;
            }
        }).completeSubscribe();
        all.await(WAIT_SECONDS, TimeUnit.SECONDS);
        for (final String line : received) {
            say("received", line);
        }
        consumer.shutdown();
        // What the consumer keeps in ZooKeeper: an offset for each partition.
        final ZkClient client = new ZkClient(zk.zkConnect, 30000, 30000, new ZkUtils.StringSerializer());
        final String path = zk.zkRoot + "/consumers/a-group/offsets/" + TOPIC;
        for (final String child : new TreeSet<>(client.getChildren(path))) {
            final String value = ZkUtils.readData(client, path + "/" + child);
            say("offset", child, value.substring(value.lastIndexOf('-') + 1));
        }
        client.close();
    }

    private static void browse(final MessageSessionFactory factory) throws Exception {
        final TopicBrowser browser = factory.createTopicBrowser(TOPIC);
        for (final Partition partition : new TreeSet<>(browser.getPartitions())) {
            say("partition", partition.toString());
        }
        final TreeSet<String> found = new TreeSet<>();
        for (final Iterator<Message> messages = browser.iterator(); messages.hasNext();) {
            found.add(describe(messages.next()));
        }
        say("browsed", String.valueOf(found.size()), String.valueOf(found.hashCode()));
        browser.shutdown();
    }

    private static void statistics(final MessageSessionFactory factory, final int port) throws Exception {
        final InetSocketAddress address = new InetSocketAddress("127.0.0.1", port);
        say("statistics", new TreeSet<>(factory.getStats(address).getStatsKeySet()).toString());
        final TreeMap<String, String> values = new TreeMap<>(factory.getStats(address, TOPIC).getAllValues());
        values.keySet().removeIf(key -> key.startsWith("topic_realtime"));
        say("statistics", values.toString());
    }

    private static String describe(final Message message) {
        final CRC32 crc = new CRC32();
        crc.update(message.getData());
        return message.getAttribute() + " " + message.getData().length + " " + crc.getValue();
    }

    private static void say(final String... words) {
        OUT.println("> " + String.join(" | ", words));
    }
}
