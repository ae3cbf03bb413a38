// The same as ask.c by c-ares, for streams alone: node ask.js PREFIX DOMAIN
const { resolve4 } = require('dns').promises;
const [prefix, domain] = process.argv.slice(2);
let goesOn = true;
process.stdin.on('end', () => { goesOn = false; }).resume();

(async () => {
  for (let number = 1; goesOn; number++) {
    const name = `${prefix}-${number}.${domain}`;
    const begin = Date.now();
    const said = await resolve4(name).then((found) => found[0], (error) => `! ${error.code}`);
    console.log(begin, Date.now(), name, said);
    await new Promise((done) => { setTimeout(done, 5); });
  }
})();
