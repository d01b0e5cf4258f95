import com.taobao.metamorphosis.Message;
import com.taobao.metamorphosis.client.consumer.MessageIterator;
import com.taobao.metamorphosis.utils.MessageFlagUtils;
import com.taobao.metamorphosis.utils.MessageUtils;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;

/** The requests of MetaQ's HTTP client, which was never published, with the codec of its published one. */
public class HttpRequests {
    private static String base;

    public static void main(String[] arguments) throws Exception {
        base = "http://127.0.0.1:" + arguments[0];
        for (int number = 0; number < 3; number++) {
            Message message = new Message("test", ("größe " + number).getBytes("UTF-8"));
            if (number == 1) {
                message.setAttribute("attribute");
            }
            byte[] data = MessageUtils.encodePayload(message);
            String query = "topic=test&partition=0&flag=" + MessageFlagUtils.getFlag(message) + "&length=" + data.length;
            byte[] reply = ask("/put/0?" + query, data, 200);
            System.out.println("> put " + new String(reply, "UTF-8").split(" ").length);
        }
        byte[] records = ask("/get/0?topic=test&partition=0&group=g&offset=0&maxsize=65536", null, 200);
        MessageIterator messages = new MessageIterator("test", records);
        while (messages.hasNext()) {
            Message message = messages.next();
            System.out.println("> got " + new String(message.getData(), "UTF-8") + " " + message.getAttribute());
        }
        String end = String.valueOf(records.length);
        ask("/get/0?topic=test&partition=0&group=g&offset=" + end + "&maxsize=65536", null, 404);
        byte[] nearest = ask("/offset/0?topic=test&partition=0&group=g&offset=" + Long.MAX_VALUE, null, 200);
        System.out.println("> end " + new String(nearest, "UTF-8").equals(end));
        byte[] moved = ask("/get/0?topic=test&partition=0&group=g&offset=" + Long.MAX_VALUE + "&maxsize=1", null, 301);
        System.out.println("> moved " + new String(moved, "UTF-8").equals(end));
    }

    private static byte[] ask(String path, byte[] body, int status) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) new URL(base + path).openConnection();
        if (body != null) {
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            OutputStream out = connection.getOutputStream();
            out.write(body);
            out.close();
        }
        int found = connection.getResponseCode();
        InputStream in = found < 400 ? connection.getInputStream() : connection.getErrorStream();
        byte[] reply = in.readAllBytes();
        if (found != status) {
            throw new IllegalStateException(path + ": " + found + " " + new String(reply, "UTF-8"));
        }
        return reply;
    }
}
