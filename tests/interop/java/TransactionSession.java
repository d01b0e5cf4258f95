import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.XAMessageSessionFactory;
import com.taobao.metamorphosis.client.XAMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.producer.MessageProducer;
import com.taobao.metamorphosis.client.producer.SendResult;
import com.taobao.metamorphosis.client.producer.XAMessageProducer;
import com.taobao.metamorphosis.transaction.XATransactionId;
import com.taobao.metamorphosis.utils.ZkUtils;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import javax.transaction.xa.XAException;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;
import org.I0Itec.zkclient.ZkClient;

/**
 * Transactions of the Java client with one broker, printed line by line for a test to compare.
 *
 * <p>Arguments: ZooKeeper's address, the root node, the broker's port, what to do ("all"; "prepare": leave one
 * prepared; "decide": commit that one), and "register" to stand in for a broker that does not register itself.
 */
public final class TransactionSession {
    private static final String TOPIC = "orders";
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private TransactionSession() {
    }

    /** Anything that may be refused. */
    private interface Call {
        Object run() throws Exception;
    }

    public static void main(final String[] arguments) throws Exception {
        final ZkUtils.ZKConfig zk = new ZkUtils.ZKConfig(arguments[1], arguments[0], 30000, 30000, 5000, true);
        ZkClient registration = null;
        if (arguments.length > 4) {
            registration = ClientSession.register(zk, Integer.parseInt(arguments[2]));
        }
        final MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        final XAMessageSessionFactory factory = new XAMetaMessageSessionFactory(config);
        try {
            if (arguments[3].equals("all")) {
                local(factory);
                distributed(factory);
            } else if (arguments[3].equals("prepare")) {
                prepareOne(factory);
            } else {
                decide(factory);
            }
        } finally {
            factory.shutdown();
        }
        if (registration != null) {
            registration.close();
        }
        say("end");
        System.exit(0);
    }

    private static void local(final XAMessageSessionFactory factory) throws Exception {
        final MessageProducer producer = factory.createProducer();
        producer.publish(TOPIC);
        producer.setTransactionTimeout(30);
        producer.beginTransaction();
        for (int i = 0; i < 3; i++) {
            send(producer, "local-" + i);
        }
        attempt("begin twice", () -> {
            producer.beginTransaction();
            return null;
        });
        attempt("commit", () -> {
            producer.commit();
            return null;
        });
        attempt("commit without begin", () -> {
            producer.commit();
            return null;
        });
        producer.beginTransaction();
        send(producer, "gone");
        attempt("roll back", () -> {
            producer.rollback();
            return null;
        });
        producer.setTransactionTimeout(1);
        producer.beginTransaction();
        send(producer, "late");
        Thread.sleep(2500);
        attempt("commit too late", () -> {
            producer.commit();
            return null;
        });
        producer.shutdown();
    }

    private static void distributed(final XAMessageSessionFactory factory) throws Exception {
        final XAMessageProducer producer = factory.createXAProducer();
        producer.setUniqueQualifier("books");
        producer.publish(TOPIC);
        final XAResource resource = producer.getXAResource();
        final Xid two = xid(1);
        begin(producer, resource, two, "two-phases");
        attempt("prepare", () -> resource.prepare(two));
        attempt("prepare twice", () -> resource.prepare(two));
        attempt("recover", () -> names(resource.recover(XAResource.TMSTARTRSCAN)));
        attempt("commit", () -> {
            resource.commit(two, false);
            return null;
        });
        attempt("commit twice", () -> {
            resource.commit(two, false);
            return null;
        });
        final XAResource again = producer.getXAResource();
        final Xid one = xid(2);
        begin(producer, again, one, "one-phase");
        attempt("commit one phase", () -> {
            again.commit(one, true);
            return null;
        });
        final XAResource third = producer.getXAResource();
        final Xid gone = xid(3);
        begin(producer, third, gone, "gone");
        attempt("prepare", () -> third.prepare(gone));
        attempt("roll back", () -> {
            third.rollback(gone);
            return null;
        });
        attempt("recover", () -> names(third.recover(XAResource.TMSTARTRSCAN)));
        attempt("forget", () -> {
            third.forget(gone);
            return null;
        });
        final XAResource fourth = producer.getXAResource();
        final Xid early = xid(4);
        begin(producer, fourth, early, "unprepared");
        attempt("commit unprepared", () -> {
            fourth.commit(early, false);
            return null;
        });
        final XAResource fifth = producer.getXAResource();
        final Xid empty = xid(5);
        fifth.start(empty, XAResource.TMNOFLAGS);
        fifth.end(empty, XAResource.TMSUCCESS);
        attempt("prepare nothing", () -> fifth.prepare(empty));
        attempt("same", () -> fifth.isSameRM(fourth));
        producer.shutdown();
    }

    private static void prepareOne(final XAMessageSessionFactory factory) throws Exception {
        final XAMessageProducer producer = factory.createXAProducer();
        producer.setUniqueQualifier("books");
        producer.publish(TOPIC);
        final XAResource resource = producer.getXAResource();
        begin(producer, resource, xid(9), "left prepared");
        attempt("prepare", () -> resource.prepare(xid(9)));
    }

    private static void decide(final XAMessageSessionFactory factory) throws Exception {
        final XAMessageProducer producer = factory.createXAProducer();
        producer.setUniqueQualifier("books");
        producer.publish(TOPIC);
        final XAResource resource = producer.getXAResource();
        attempt("recover", () -> names(resource.recover(XAResource.TMSTARTRSCAN)));
        attempt("commit", () -> {
            resource.commit(xid(9), false);
            return null;
        });
        attempt("recover", () -> names(resource.recover(XAResource.TMSTARTRSCAN)));
        producer.shutdown();
    }

    private static void begin(
            final XAMessageProducer producer, final XAResource resource, final Xid xid, final String body)
            throws Exception {
        resource.setTransactionTimeout(30);
        resource.start(xid, XAResource.TMNOFLAGS);
        for (int i = 0; i < 3; i++) {
            send(producer, body + "-" + i);
        }
        resource.end(xid, XAResource.TMSUCCESS);
    }

    private static void send(final MessageProducer producer, final String body) throws Exception {
        final SendResult result = producer.sendMessage(new Message(TOPIC, body.getBytes(StandardCharsets.UTF_8)));
        say("sent | " + body + " | " + result.isSuccess() + " | " + result.getOffset());
    }

    private static void attempt(final String what, final Call call) {
        try {
            say(what + " | " + call.run());
        } catch (final XAException error) {
            say(what + " | XAException " + error.errorCode);
        } catch (final Exception error) {
            say(what + " | " + error.getClass().getSimpleName());
        }
    }

    private static Object names(final Xid[] found) {
        final List<String> keys = new ArrayList<>();
        for (final Xid one : found) {
            keys.add(((XATransactionId) one).getTransactionKey());
        }
        return new TreeSet<>(keys);
    }

    private static Xid xid(final int number) {
        return new XATransactionId(7, new byte[] {(byte) number, -1}, new byte[] {0}, "books");
    }

    private static void say(final String line) {
        OUT.println("> " + line);
    }
}
