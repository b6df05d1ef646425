global.get("out").write(msg.payload + "\n");
return null;
