import java.net.InetAddress;
import java.net.URI;

/** Prints the addresses of a name, then what http://NAME/ says. */
public class Ask {
    public static void main(String[] arguments) throws Exception {
        for (InetAddress address : InetAddress.getAllByName(arguments[0])) {
            System.out.println(address.getHostAddress());
        }
        try (var answer = URI.create("http://" + arguments[0] + "/").toURL().openStream()) {
            answer.transferTo(System.out);
        }
    }
}
