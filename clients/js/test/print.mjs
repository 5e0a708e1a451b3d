// Prints the events of `listen`, whose options are the argument, as lines of JSON.
import { listen } from "@natterjack/client";

const options = JSON.parse(process.argv[2]);
try {
  for await (const event of listen(options)) console.log(JSON.stringify(event));
} catch (error) {
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
}
