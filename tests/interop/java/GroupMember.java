import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MessageSessionFactory;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.Shutdownable;
import com.taobao.metamorphosis.client.TopicBrowser;
import com.taobao.metamorphosis.client.consumer.ConsumerConfig;
import com.taobao.metamorphosis.client.consumer.MessageConsumer;
import com.taobao.metamorphosis.client.consumer.MessageListener;
import com.taobao.metamorphosis.client.consumer.RejectConsumptionHandler;
import com.taobao.metamorphosis.client.consumer.SimpleFetchManager;
import com.taobao.metamorphosis.client.extension.AsyncMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.extension.ExtMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.extension.OrderedMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.extension.consumer.ConsumerRecoverType;
import com.taobao.metamorphosis.client.extension.producer.OrderedMessagePartitionSelector;
import com.taobao.metamorphosis.client.extension.producer.AsyncMessageProducer;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.client.producer.RoundRobinPartitionSelector;
import com.taobao.metamorphosis.client.producer.SendMessageCallback;
import com.taobao.metamorphosis.client.producer.SendResult;
import com.taobao.metamorphosis.cluster.Partition;
import com.taobao.metamorphosis.consumer.ConsumerMessageFilter;
import com.taobao.metamorphosis.consumer.MessageIterator;
import com.taobao.metamorphosis.utils.ZkUtils;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;

/**
 * Java clients in one process, steered line by line; tests/interop/java_member.py speaks to it.
 *
 * <p>Arguments: ZooKeeper's address, the root node, the session's timeout and the pause between attempts
 * of a rebalance, both in milliseconds. On standard input each line is {@code TAG VERB NAME KEY=VALUE...}; values
 * are URL-encoded. Lines for a test begin with {@code > }: {@code answer TAG ok|error WORD...} once per line
 * that came in, in any order, and events between them. The end of standard input is {@code stop}.
 */
public final class GroupMember {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final int BODY_SHOWN_MAX = 200;

    private final String connect;
    private final String root;
    private final int sessionTimeoutMs;
    private final int syncTimeMs;
    /** In the order of their making: what came later is closed earlier. */
    private final Map<String, Shutdownable> clients = Collections.synchronizedMap(new LinkedHashMap<>());
    private final Map<String, Behaviour> behaviours = new ConcurrentHashMap<>();
    private final Map<String, CountDownLatch> flows = new ConcurrentHashMap<>();

    private GroupMember(final String[] arguments) {
        this.connect = arguments[0];
        this.root = arguments[1];
        this.sessionTimeoutMs = Integer.parseInt(arguments[2]);
        this.syncTimeMs = Integer.parseInt(arguments[3]);
    }

    public static void main(final String[] arguments) throws Exception {
        // What a consumer of this process has had would be hidden from it the second time.
        SimpleFetchManager.setMessageIdCache(null);
        final GroupMember member = new GroupMember(arguments);
        StrandedConnections.watch(member.clients);
        final BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        final ExecutorService executor = Executors.newCachedThreadPool();
        say("ready");
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            final Words words = new Words(line);
            if (words.verb.equals("stop")) {
                break;
            }
            executor.execute(() -> member.answer(words));
        }
        member.stop();
        say("end");
        System.exit(0);
    }

    private void answer(final Words words) {
        try {
            say("answer", words.tag, "ok", this.act(words));
        } catch (final Throwable error) {
            say("answer", words.tag, "error", error.getClass().getSimpleName(), encode(String.valueOf(error.getMessage())));
        }
    }

    private String act(final Words words) throws Exception {
        switch (words.verb) {
            case "factory":
                this.clients.put(words.name, this.factory(words));
                return "";
            case "producer":
                this.clients.put(words.name, this.producer(words));
                return "";
            case "publish":
                this.producer(words.name).publish(words.get("topic"));
                return "";
            case "default":
                this.producer(words.name).setDefaultTopic(words.get("topic"));
                return "";
            case "send":
                return this.send(words);
            case "oneway":
                final byte[] body = words.get("body", "").getBytes(StandardCharsets.UTF_8);
                ((AsyncMessageProducer) this.producer(words.name)).asyncSendMessage(message(words, body));
                return "";
            case "produce":
                return this.produce(words);
            case "halt":
                this.flows.get(words.name).countDown();
                return "";
            case "consume":
                this.consume(words);
                return "";
            case "release":
                this.behaviours.get(words.name).released.countDown();
                return "";
            case "get":
                return this.get(words);
            case "partitions":
                return this.factory(words.name).getPartitionsForTopic(words.get("topic")).toString().replace(" ", "");
            case "browse":
                return this.browse(words);
            case "close":
                this.clients.remove(words.name).shutdown();
                return "";
            case "status":
                return String.join(" ", this.clients.keySet());
            default:
                throw new IllegalArgumentException("unknown verb " + words.verb);
        }
    }

    private void stop() throws Exception {
        this.flows.values().forEach(CountDownLatch::countDown);
        this.behaviours.values().forEach(behaviour -> behaviour.released.countDown());
        final List<Shutdownable> all = new ArrayList<>(this.clients.values());
        Collections.reverse(all);
        for (final Shutdownable client : all) {
            client.shutdown();
        }
    }

    private MessageSessionFactory factory(final String name) {
        return (MessageSessionFactory) this.clients.get(name);
    }

    private MessageProducer producer(final String name) {
        return (MessageProducer) this.clients.get(name);
    }

    private MessageSessionFactory factory(final Words words) throws Exception {
        final MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(new ZkUtils.ZKConfig(
                words.get("root", this.root),
                words.get("connect", this.connect),
                this.sessionTimeoutMs,
                30000,
                this.syncTimeMs,
                true));
        config.setRecoverMessageIntervalInMills(words.number("recover", 500));
        switch (words.get("kind", "plain")) {
            case "ordered":
                final Properties layout = new Properties();
                words.options.forEach((key, value) -> {
                    if (key.startsWith("topic.num.")) {
                        layout.setProperty(key, value);
                    }
                });
                config.setPartitionsInfo(layout);
                return new OrderedMetaMessageSessionFactory(config);
            case "extended":
                return new ExtMetaMessageSessionFactory(config);
            case "oneway":
                return new AsyncMetaMessageSessionFactory(config);
            default:
                return new MetaMessageSessionFactory(config);
        }
    }

    private MessageProducer producer(final Words words) {
        final MessageSessionFactory factory = this.factory(words.get("factory"));
        if (factory instanceof AsyncMetaMessageSessionFactory) {
            return ((AsyncMetaMessageSessionFactory) factory).createAsyncProducer();
        }
        return factory instanceof OrderedMetaMessageSessionFactory
                ? factory.createProducer(new ByAttribute())
                : factory.createProducer(new RoundRobinPartitionSelector());
    }

    /** A message's attribute is the place of its partition in the configured layout. */
    private static final class ByAttribute extends OrderedMessagePartitionSelector {
        @Override
        protected Partition choosePartition(final String topic, final List<Partition> partitions, final Message message) {
            return partitions.get(Integer.parseInt(message.getAttribute()) % partitions.size());
        }
    }

    private String send(final Words words) throws Exception {
        final Message message = message(words, words.get("body", "").getBytes(StandardCharsets.UTF_8));
        return describe(this.sendOne(words, message), message);
    }

    private SendResult sendOne(final Words words, final Message message) throws Exception {
        final MessageProducer producer = this.producer(words.name);
        final long timeoutMs = words.number("timeout", 20000);
        if (!words.has("callback")) {
            return producer.sendMessage(message, timeoutMs, TimeUnit.MILLISECONDS);
        }
        final SendResult[] result = new SendResult[1];
        final Throwable[] failure = new Throwable[1];
        final CountDownLatch called = new CountDownLatch(1);
        producer.sendMessage(message, new SendMessageCallback() {
            @Override
            public void onMessageSent(final SendResult found) {
                result[0] = found;
                called.countDown();
            }

            @Override
            public void onException(final Throwable error) {
                failure[0] = error;
                called.countDown();
            }
        }, timeoutMs, TimeUnit.MILLISECONDS);
        called.await();
        if (failure[0] != null) {
            throw new IllegalStateException("the callback had an exception", failure[0]);
        }
        return result[0];
    }

    /** Numbered messages, one after the other, each told when it is sent; without a count until "halt". */
    private String produce(final Words words) throws Exception {
        final CountDownLatch halted = new CountDownLatch(1);
        this.flows.put(words.name, halted);
        final long first = words.number("first", 0);
        final long end = words.has("count") ? first + words.number("count", 0) : Long.MAX_VALUE;
        long number = first;
        while (number < end && halted.getCount() > 0) {
            final Message message = message(words, body(words.get("prefix"), number, (int) words.number("size", 0)));
            try {
                say("produced", words.name, String.valueOf(number), describe(this.sendOne(words, message), message));
            } catch (final Exception error) {
                say("produced", words.name, String.valueOf(number), error.getClass().getSimpleName(), encode(String.valueOf(error.getMessage())));
            }
            number++;
            if (words.has("pause") && halted.await(words.number("pause", 0), TimeUnit.MILLISECONDS)) {
                break;
            }
        }
        return String.valueOf(number - first);
    }

    private static byte[] body(final String prefix, final long number, final int size) {
        final byte[] words = (prefix + "-" + number + " ").getBytes(StandardCharsets.UTF_8);
        if (size == 0) {
            return Arrays.copyOf(words, words.length - 1);
        }
        final byte[] body = new byte[size];
        for (int position = 0; position < size; position++) {
            body[position] = words[position % words.length];
        }
        return body;
    }

    private static Message message(final Words words, final byte[] body) {
        return words.has("attribute")
                ? new Message(words.get("topic"), body, words.get("attribute"))
                : new Message(words.get("topic"), body);
    }

    private static String describe(final SendResult result, final Message message) {
        return result.isSuccess()
                ? "success " + message.getId() + " " + result.getPartition() + " " + result.getOffset()
                : "refused " + encode(String.valueOf(result.getErrorMessage()));
    }

    private void consume(final Words words) throws Exception {
        final ConsumerConfig config = words.has("id")
                ? new ConsumerConfig(words.get("id"), words.get("group"))
                : new ConsumerConfig(words.get("group"));
        config.setMaxDelayFetchTimeInMills(words.number("delay", 100));
        config.setCommitOffsetPeriodInMills(words.number("commit", 100));
        config.setMaxFetchRetries((int) words.number("retries", 5));
        config.setFetchRunnerCount((int) words.number("threads", 2));
        if (words.has("max")) {
            config.setConsumeFromMaxOffset(words.get("max").equals("always"));
        }
        final Behaviour behaviour = new Behaviour(words);
        final MessageSessionFactory factory = this.factory(words.get("factory"));
        final MessageConsumer consumer = words.has("broadcast")
                ? ((ExtMetaMessageSessionFactory) factory).createBroadcastConsumer(config, ConsumerRecoverType.DEFAULT)
                : factory.createConsumer(config);
        this.behaviours.put(words.name, behaviour);
        this.clients.put(words.name, consumer);
        if (words.has("reject")) {
            consumer.setRejectConsumptionHandler(behaviour);
        }
        for (final String topic : words.get("topics").split(",")) {
            consumer.subscribe(decode(topic), (int) words.number("size", 1 << 20), behaviour, behaviour);
        }
        consumer.completeSubscribe();
    }

    /** What a listener does with a message, beside telling of it. */
    private static final class Behaviour implements MessageListener, RejectConsumptionHandler, ConsumerMessageFilter {
        private final Words words;
        private final CountDownLatch released = new CountDownLatch(1);
        private final Map<Long, Integer> deliveries = new HashMap<>();
        private int received;

        Behaviour(final Words words) {
            this.words = words;
        }

        @Override
        public boolean accept(final String group, final Message message) {
            if (this.words.has("filterFails") && text(message).startsWith(this.words.get("filterFails"))) {
                throw new IllegalStateException("the filter fails");
            }
            return !this.words.has("filter") || text(message).startsWith(this.words.get("filter"));
        }

        @Override
        public void recieveMessages(final Message message) throws InterruptedException {
            if (this.words.has("hold")) {
                this.released.await();
            }
            // Of the message behind it: where the next delivery begins. Not known to a recovered one.
            final String end = SimpleFetchManager.currentTopicRegInfo() == null
                    ? "-1"
                    : SimpleFetchManager.currentTopicRegInfo().getOffset().toString();
            say("received", this.words.name, describe(message), end);
            this.decide(message);
        }

        private synchronized void decide(final Message message) {
            this.received++;
            if (this.words.has("ackAt")) {
                message.getPartition().setAutoAck(false);
                if (this.received == this.words.number("rollbackAt", 0)) {
                    message.getPartition().rollback();
                } else if (this.received == this.words.number("ackAt", 0)) {
                    message.getPartition().ack();
                }
            }
            final int delivery = this.deliveries.merge(message.getId(), 1, Integer::sum);
            if (delivery > this.words.number("times", 0) || !text(message).startsWith(this.words.get("only", ""))) {
                return;
            }
            if (this.words.get("fail").equals("rollback")) {
                message.setRollbackOnly();
            } else {
                throw new IllegalStateException("as the test wants it");
            }
        }

        @Override
        public void rejectConsumption(final Message message, final MessageConsumer consumer) {
            say("rejected", this.words.name, describe(message), "-1");
        }

        @Override
        public Executor getExecutor() {
            return null;
        }
    }

    private String get(final Words words) throws Exception {
        final MessageConsumer consumer = (MessageConsumer) this.clients.get(words.name);
        final Partition partition = new Partition(words.get("partition"));
        final MessageIterator found = consumer.get(
                words.get("topic"), partition, words.number("offset", 0), (int) words.number("size", 1 << 20));
        if (found == null) {
            return "nothing";
        }
        int count = 0;
        while (found.hasNext()) {
            say("read", words.name, describe(found.next()), String.valueOf(found.getOffset()));
            count++;
        }
        return String.valueOf(count);
    }

    private String browse(final Words words) throws Exception {
        final TopicBrowser browser = this.factory(words.get("factory")).createTopicBrowser(words.get("topic"));
        int count = 0;
        for (final Iterator<Message> found = browser.iterator(); found.hasNext();) {
            say("read", words.name, describe(found.next()), "-1");
            count++;
        }
        browser.shutdown();
        return String.valueOf(count);
    }

    private static String text(final Message message) {
        return new String(message.getData(), StandardCharsets.UTF_8);
    }

    private static String describe(final Message message) {
        final CRC32 crc = new CRC32();
        crc.update(message.getData());
        final String body = text(message);
        return String.join(
                " ",
                encode(message.getTopic()),
                String.valueOf(message.getPartition()),
                String.valueOf(message.getId()),
                message.hasAttribute() ? "=" + encode(message.getAttribute()) : "-",
                String.valueOf(message.getData().length),
                String.valueOf(crc.getValue()),
                "=" + encode(body.length() <= BODY_SHOWN_MAX ? body : body.substring(0, BODY_SHOWN_MAX)));
    }

    private static String encode(final String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static String decode(final String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }

    private static void say(final String... words) {
        OUT.println("> " + String.join(" ", words));
    }

    /** A line that came in. */
    private static final class Words {
        private final String tag;
        private final String verb;
        private final String name;
        private final Map<String, String> options = new HashMap<>();

        Words(final String line) {
            final String[] words = line.trim().split(" +");
            this.tag = words[0];
            this.verb = words[1];
            this.name = words.length > 2 ? words[2] : "";
            for (int index = 3; index < words.length; index++) {
                final int equals = words[index].indexOf('=');
                this.options.put(words[index].substring(0, equals), decode(words[index].substring(equals + 1)));
            }
        }

        boolean has(final String key) {
            return this.options.containsKey(key);
        }

        String get(final String key) {
            return this.options.get(key);
        }

        String get(final String key, final String otherwise) {
            return this.options.getOrDefault(key, otherwise);
        }

        long number(final String key, final long otherwise) {
            return this.has(key) ? Long.parseLong(this.get(key)) : otherwise;
        }
    }
}
