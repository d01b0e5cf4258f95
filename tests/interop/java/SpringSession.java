import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.consumer.MessageConsumer;
import com.taobao.metamorphosis.client.consumer.RejectConsumptionHandler;
import com.taobao.metamorphosis.client.extension.spring.DefaultMessageListener;
import com.taobao.metamorphosis.client.extension.spring.MessageBuilder;
import com.taobao.metamorphosis.client.extension.spring.MetaqMessage;
import com.taobao.metamorphosis.client.extension.spring.MetaqTemplate;
import com.taobao.metamorphosis.client.producer.SendMessageCallback;
import com.taobao.metamorphosis.client.producer.SendResult;
import java.io.PrintStream;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.springframework.context.support.FileSystemXmlApplicationContext;

/**
 * What Spring's part of the Java client does with a broker, printed line by line.
 *
 * <p>Arguments: ZooKeeper's address, the root node, the file with the beans. It ends when it has read a line:
 * the test looks into the registry before that and after.
 */
public final class SpringSession {
    private static final int MESSAGES = 100;
    private static final long WAIT_SECONDS = 60;
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private SpringSession() {
    }

    public static void main(final String[] arguments) throws Exception {
        System.setProperty("session.connect", arguments[0]);
        System.setProperty("session.root", arguments[1]);
        final FileSystemXmlApplicationContext context =
            new FileSystemXmlApplicationContext("file:" + arguments[2]);
        final MetaqTemplate template = context.getBean("template", MetaqTemplate.class);
        objects(template, context.getBean("tradesListener", Listener.class));
        callbacks(template, context.getBean("tradesListener", Listener.class));
        unreadable(template, context.getBean("rejected", Rejected.class));
        shared(context);
        refusals(template);
        say("listening");
        System.in.read();
        context.close();
        say("end");
        System.exit(0);
    }

    /** What an application sends. */
    public static final class Trade implements Serializable {
        private static final long serialVersionUID = 1;
        final int number;

        Trade(final int number) {
            this.number = number;
        }
    }

    /** Collects numbers and attributes. */
    public static final class Listener extends DefaultMessageListener<Trade> {
        private final List<String> received = new CopyOnWriteArrayList<>();

        @Override
        public void onReceiveMessages(final MetaqMessage<Trade> message) {
            received.add(message.getBody().number + " " + message.getAttribute());
        }

        TreeSet<String> await(final int count) throws InterruptedException {
            waitFor(received, count);
            return new TreeSet<>(received);
        }
    }

    /** Collects what no listener could read. */
    public static final class Rejected implements RejectConsumptionHandler {
        private final List<String> received = new CopyOnWriteArrayList<>();

        @Override
        public void rejectConsumption(final Message message, final MessageConsumer consumer) {
            received.add(new String(message.getData(), StandardCharsets.UTF_8));
        }
    }

    private static void objects(final MetaqTemplate template, final Listener listener) throws Exception {
        int sent = 0;
        for (int number = 0; number < MESSAGES; number++) {
            final MessageBuilder builder = MessageBuilder.withTopic("trades").withBody(new Trade(number));
            sent += template.send(builder.withAttribute("größe"), WAIT_SECONDS, TimeUnit.SECONDS).isSuccess() ? 1 : 0;
        }
        final TreeSet<String> received = listener.await(MESSAGES);
        say("objects", sent + " sent, " + received.size() + " received, last " + received.last());
    }

    private static void callbacks(final MetaqTemplate template, final Listener listener) throws Exception {
        final CountDownLatch called = new CountDownLatch(1);
        final SendMessageCallback callback = new SendMessageCallback() {
            @Override
            public void onMessageSent(final SendResult result) {
                say("callback", String.valueOf(result.isSuccess()));
                called.countDown();
            }

            @Override
            public void onException(final Throwable error) {
                say("callback", error.toString());
                called.countDown();
            }
        };
        template.send(MessageBuilder.withTopic("trades").withBody(new Trade(MESSAGES)), callback);
        called.await(WAIT_SECONDS, TimeUnit.SECONDS);
        say("callback", String.valueOf(listener.await(MESSAGES + 1).contains(MESSAGES + " null")));
    }

    /** The converter fails, the message is rolled back, and after its retries the handler has it. */
    private static void unreadable(final MetaqTemplate template, final Rejected rejected) throws Exception {
        final byte[] payload = "no object of Java's".getBytes(StandardCharsets.UTF_8);
        template.send(MessageBuilder.withTopic("trades").withPayload(payload));
        waitFor(rejected.received, 1);
        say("rejected", rejected.received.toString());
    }

    private static void shared(final FileSystemXmlApplicationContext context) throws Exception {
        final MetaqTemplate template = context.getBean("sharingTemplate", MetaqTemplate.class);
        for (final String topic : new String[] {"orders", "refunds"}) {
            final SendResult result = template.send(MessageBuilder.withTopic(topic).withBody(new Trade(7)));
            final TreeSet<String> received = context.getBean(topic + "Listener", Listener.class).await(1);
            say("shared", topic + " " + result.isSuccess() + " " + received);
        }
        say("shared", String.valueOf(template.getOrCreateProducer("orders") == template.getOrCreateProducer("refunds")));
    }

    private static void refusals(final MetaqTemplate template) throws Exception {
        final SendResult result = template.send(MessageBuilder.withTopic("of-no-broker").withBody(new Trade(0)));
        say("refused", result.isSuccess() + " " + result.getErrorMessage().contains("MetaClientException"));
        try {
            MessageBuilder.withTopic("trades").withBody(new Trade(0)).withPayload(new byte[0]);
        } catch (final IllegalArgumentException error) {
            say("refused", "body and payload");
        }
    }

    private static void waitFor(final List<String> received, final int count) throws InterruptedException {
        final long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS);
        while (received.size() < count && System.nanoTime() < until) {
            TimeUnit.MILLISECONDS.sleep(10);
        }
    }

    private static void say(final String... words) {
        OUT.println("> " + String.join(" | ", words));
    }
}
