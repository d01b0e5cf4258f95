import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.MetaClientConfig;
import com.taobao.metamorphosis.client.XAMessageSessionFactory;
import com.taobao.metamorphosis.client.XAMetaMessageSessionFactory;
import com.taobao.metamorphosis.client.producer.XAMessageProducer;
import com.taobao.metamorphosis.utils.ZkUtils;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.Statement;
import javax.sql.XAConnection;
import javax.transaction.RollbackException;
import javax.transaction.TransactionManager;
import javax.transaction.xa.XAResource;
import org.I0Itec.zkclient.ZkClient;
import org.h2.jdbcx.JdbcDataSource;

/**
 * A transaction manager (Narayana) decides over a database (H2) and the broker together.
 *
 * <p>Arguments: ZooKeeper's address, the root node, the broker's port.
 */
public final class DatabaseTransfer {
    private static final String TOPIC = "orders";
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private DatabaseTransfer() {
    }

    public static void main(final String[] arguments) {
        try {
            run(arguments);
        } catch (final Throwable error) {
            // The client's own threads would go on.
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(final String[] arguments) throws Exception {
        final ZkUtils.ZKConfig zk = new ZkUtils.ZKConfig(arguments[1], arguments[0], 30000, 30000, 5000, true);
        final ZkClient registration = ClientSession.register(zk, Integer.parseInt(arguments[2]));
        final MetaClientConfig config = new MetaClientConfig();
        config.setZkConfig(zk);
        final XAMessageSessionFactory factory = new XAMetaMessageSessionFactory(config);
        final XAMessageProducer producer = factory.createXAProducer();
        producer.setUniqueQualifier("transfer");
        producer.publish(TOPIC);
        final JdbcDataSource source = new JdbcDataSource();
        source.setURL("jdbc:h2:mem:transfer;DB_CLOSE_DELAY=-1");
        try (Connection plain = source.getConnection(); Statement statement = plain.createStatement()) {
            statement.execute("CREATE TABLE orders (id VARCHAR(40) PRIMARY KEY)");
        }
        final TransactionManager manager = com.arjuna.ats.jta.TransactionManager.transactionManager();
        final XAConnection database = source.getXAConnection();

        transfer(manager, database, producer, "committed");
        manager.commit();
        say("committed");

        transfer(manager, database, producer, "rolled back");
        manager.rollback();
        say("rolled back");

        transfer(manager, database, producer, "rollback only");
        manager.setRollbackOnly();
        try {
            manager.commit();
        } catch (final RollbackException error) {
            say("rollback only");
        }

        try (Connection plain = source.getConnection();
                Statement statement = plain.createStatement();
                ResultSet rows = statement.executeQuery("SELECT id FROM orders ORDER BY id")) {
            while (rows.next()) {
                say("row | " + rows.getString(1));
            }
        }
        database.close();
        factory.shutdown();
        registration.close();
        say("end");
        System.exit(0);
    }

    private static void transfer(
            final TransactionManager manager,
            final XAConnection database,
            final XAMessageProducer producer,
            final String id)
            throws Exception {
        manager.begin();
        // Before the branch begins, and not closed here: H2 ends what is under way with both.
        final Connection connection = database.getConnection();
        final XAResource broker = producer.getXAResource();
        if (!manager.getTransaction().enlistResource(database.getXAResource())
                || !manager.getTransaction().enlistResource(broker)) {
            throw new IllegalStateException("a resource is not taken");
        }
        try (Statement statement = connection.createStatement()) {
            statement.execute("INSERT INTO orders VALUES ('" + id + "')");
        }
        for (int i = 0; i < 3; i++) {
            producer.sendMessage(new Message(TOPIC, (id + " " + i).getBytes(StandardCharsets.UTF_8)));
        }
    }

    private static void say(final String line) {
        OUT.println("> " + line);
    }
}
