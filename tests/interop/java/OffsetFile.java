import com.taobao.metamorphosis.client.consumer.TopicPartitionRegInfo;
import com.taobao.metamorphosis.client.consumer.storage.LocalOffsetStorage;
import com.taobao.metamorphosis.cluster.Partition;
import java.util.ArrayList;
import java.util.List;

/** Loads partitions 0-0 and 0-1 of topic "orders" from a file of offsets, and commits them, moved on, for a group. */
public class OffsetFile {
    public static void main(String[] arguments) throws Exception {
        LocalOffsetStorage storage = new LocalOffsetStorage(arguments[0]);
        List<TopicPartitionRegInfo> commit = new ArrayList<TopicPartitionRegInfo>();
        for (int number = 0; number < 2; number++) {
            TopicPartitionRegInfo info = storage.load("orders", arguments[1], new Partition(0, number));
            if (info == null) {
                System.out.println("> none");
                continue;
            }
            long offset = info.getOffset().get();
            System.out.println("> " + offset);
            commit.add(new TopicPartitionRegInfo("orders", info.getPartition(), offset + 1, -77L - number));
        }
        storage.commitOffset(arguments[1], commit);
        System.out.println("> end");
    }
}
