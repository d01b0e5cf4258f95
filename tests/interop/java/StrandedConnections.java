import com.taobao.gecko.service.RemotingClient;
import com.taobao.metamorphosis.client.MetaMessageSessionFactory;
import com.taobao.metamorphosis.client.RemotingClientWrapper;
import java.lang.reflect.Field;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.log4j.AppenderSkeleton;
import org.apache.log4j.Logger;
import org.apache.log4j.spi.LoggingEvent;

/**
 * Frees clients that have lost a connection for good by a fault of their own library.
 *
 * <p>When a broker comes or goes, the client closes its connections to all others and opens them anew, without waiting
 * for the end of the old one. Where that is still there when the new one stands, the library closes the new one because
 * one is allowed, and remembers that it is connected: it never connects again. All it says is one line in its log, and
 * this class listens for that line. It has the library forget the connection and make it once more.
 */
final class StrandedConnections extends AppenderSkeleton {
    private static final String HANDLER = "com.taobao.gecko.service.impl.GeckoHandler";
    private static final Pattern ONE_TOO_MANY = Pattern.compile("\\(\\S*/(\\S+:\\d+)\\)超过设定值");
    /** The old connection is gone by then, and one that lives is left alone. */
    private static final int PAUSE_MS = 500;

    private final Map<String, ?> clients;
    private final ScheduledExecutorService later = Executors.newSingleThreadScheduledExecutor(task -> {
        final Thread thread = new Thread(task, "stranded-connections");
        thread.setDaemon(true);
        return thread;
    });

    private StrandedConnections(final Map<String, ?> clients) {
        this.clients = clients;
    }

    /** From now on, for the factories among these, also for those that are made later. */
    static void watch(final Map<String, ?> clients) {
        Logger.getLogger(HANDLER).addAppender(new StrandedConnections(clients));
    }

    @Override
    protected void append(final LoggingEvent event) {
        final Matcher found = ONE_TOO_MANY.matcher(event.getRenderedMessage());
        if (found.find()) {
            this.later.schedule(() -> this.free("meta://" + found.group(1)), PAUSE_MS, TimeUnit.MILLISECONDS);
        }
    }

    private void free(final String url) {
        synchronized (this.clients) {
            for (final Object client : this.clients.values()) {
                if (client instanceof MetaMessageSessionFactory) {
                    free(url, (MetaMessageSessionFactory) client);
                }
            }
        }
    }

    private static void free(final String url, final MetaMessageSessionFactory factory) {
        try {
            // What wraps it would close only what nobody uses.
            final Field field = RemotingClientWrapper.class.getDeclaredField("remotingClient");
            field.setAccessible(true);
            final RemotingClient connections = (RemotingClient) field.get(factory.getRemotingClient());
            if (!connections.isConnected(url)) {
                System.err.println("[stranded] connects anew to " + url);
                connections.close(url, false);
                connections.connect(url);
            }
        } catch (final Exception error) {
            error.printStackTrace();
        }
    }

    @Override
    public boolean requiresLayout() {
        return false;
    }

    @Override
    public void close() {
        this.later.shutdown();
    }
}
